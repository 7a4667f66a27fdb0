"""A real browser for tests: the system's Chromium under Playwright, at a phone's width or a desk's, and axe-core to judge pages.

Nothing is downloaded. Where there is no Chromium tests are skipped, but not where CI says that it is CI.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1440, "height": 900}
WAIT_MS = 20_000
NAME_OF_FOCUS = """(() => {
    const held = document.activeElement;
    return held.labels?.[0]?.innerText ?? held.getAttribute("aria-label") ?? held.innerText;
})()"""
# Between the last and the first the browser's own buttons have it.
IS_FOCUS_SEEN = "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle !== 'none'"
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def chromium_path() -> str | None:
    """Where the system has a Chromium."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser. Skips the test that asks for it where there is none, but in CI."""
    path = chromium_path()
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs a chromium; .ci/run installs it")
        pytest.skip("no chromium here")
    with sync_playwright() as playwright:
        # As root, which containers are, Chromium has no sandbox; /dev/shm is small in them.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Somebody with a browser of their own, at one page; `troubles` is what the console and the network said against it."""

    def __init__(self, browser: Browser, url: str, size: dict[str, int] | None = None, **options: Any) -> None:
        """`options`: as Playwright has them (locale, color_scheme, java_script_enabled, ...)."""
        fitting = {"viewport": size or PHONE, "locale": "en-GB", "timezone_id": "Europe/Madrid", "base_url": url}
        self.context: BrowserContext = browser.new_context(**{**fitting, **options})  # type: ignore[arg-type]
        self.context.set_default_timeout(WAIT_MS)
        self.page: Page = self.context.new_page()
        self.troubles: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("requestfailed", lambda request: self._failed(request.url, request.failure))
        self._url = url

    def close(self) -> None:
        """Close the browser's window."""
        self.context.close()

    def strangers(self) -> list[str]:
        """Addresses outside of this host that the page has loaded something from."""
        loaded = self.page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
        return [name for name in loaded if not name.startswith((self._url, "data:"))]

    def violations(self) -> list[str]:
        """What axe-core finds at the page as it is now: rule, and where."""
        found = Axe().run(self.page, options={"runOnly": STANDARDS}).response["violations"]
        return [f"{one['id']}: {node['target']} {node.get('failureSummary', '')}" for one in found for node in one["nodes"]]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def focused(self) -> str:
        """The text of what has the focus."""
        return self.page.evaluate("document.activeElement.innerText || document.activeElement.value || ''")

    def tab(self, times: int, back: bool = False) -> list[str]:
        """Press Tab so many times; what had the focus each time, which must be seen."""
        found = []
        for _ in range(times):
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
            found.append(self.focused())
            is_seen = self.page.evaluate(IS_FOCUS_SEEN)
            assert is_seen, f"one does not see that {found[-1]!r} has the focus"
        return found

    def tab_to(self, name: str, back: bool = False, most: int = 60) -> None:
        """Press Tab until the focus is on what has this name: its label, or its text."""
        for _ in range(most):
            self.tab(1, back)
            if self.page.evaluate(NAME_OF_FOCUS) == name:
                return
        raise AssertionError(f"{name!r} cannot be reached by Tab")

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(message.text)

    def _failed(self, url: str, failure: str | None) -> None:
        if failure != "net::ERR_ABORTED":  # a page that was left, with its streams
            self.troubles.append(f"{url}: {failure}")
