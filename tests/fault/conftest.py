"""A driver for each test of this folder, and no crash point armed after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import crashpoints
from tests.support.driving import Driver
from tests.support.stack import Deployment


@pytest.fixture
def driver(deployment: Deployment) -> Iterator[Driver]:
    """A fresh deployment, driven by hand."""
    with Driver(deployment) as driver:
        yield driver


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """What a test armed ends with it, also where it failed."""
    yield
    crashpoints.disarm()
