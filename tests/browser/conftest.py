"""Fixtures: one Chromium for the tests of a file, and visitors with windows of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import WAIT_MS, Visitor, chromium
from tests.support.stack import Stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser. While it runs, no other event loop can run in this thread, so it ends with the file."""
    with chromium() as found:
        yield found


@pytest.fixture(autouse=True)
def _patience() -> None:
    """The machine may be busy."""
    expect.set_options(timeout=WAIT_MS)


@pytest.fixture
def visit(browser: Browser, live_api: Stack) -> Iterator[Callable[..., Visitor]]:
    """Opens windows at the shared stack, on a phone unless another size is asked for: see Visitor."""
    with ExitStack() as windows:

        def open_window(path: str, url: str = live_api.url, **options: object) -> Visitor:
            visitor = Visitor(browser, url, **options)  # type: ignore[arg-type]
            windows.callback(visitor.close)
            visitor.page.goto(path)
            return visitor

        yield open_window
