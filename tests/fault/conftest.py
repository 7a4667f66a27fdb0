"""A driver for each test of this folder, and no crash point armed after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import crashpoints, door, lookout, mailbox
from core.erasure import Erasure
from core.scrub import Scrub
from tests.support.driving import Driver
from tests.support.stack import Deployment

LASTING_MS = 60_000


@pytest.fixture
def driver(deployment: Deployment) -> Iterator[Driver]:
    """A fresh deployment, driven by hand."""
    with Driver(deployment) as driver:
        yield driver


@pytest.fixture
def lasting_bells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bell that rang is there for long, also on a machine that stands still meanwhile."""
    for module in (door, mailbox, lookout):
        monkeypatch.setattr(module, "BELL_MS", LASTING_MS)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Erasing leaves the servers' files alone, which costs the most and is tested by itself."""
    monkeypatch.setattr(Erasure, "clean", lambda self, rewrite: None)
    monkeypatch.setattr(Scrub, "rewrite_log", lambda self: True)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """What a test armed ends with it, also where it failed."""
    yield
    crashpoints.disarm()
