"""`make screenshots`: the pictures that README shows, taken of a stack of its own. SHOTS lists them, each a function that
gets everything ready; a picture is docs/<its name>.png."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser

from tests.conftest import temporary_folder
from tests.support.browser import DESK, PHONE, Visitor, chromium
from tests.support.http import Api
from tests.support.stack import Servers, Stack

DOCS = Path(__file__).resolve().parents[2] / "docs"
LARGEST_BYTES = 150_000
PARTITIONS = 4  # as many as `make up` has

Shot = Callable[[Browser, Stack], Visitor]
SHOTS: dict[str, Shot] = {}


def shot(name: str) -> Callable[[Shot], Shot]:
    """Register a picture: the function opens a visitor and leaves its page as the picture is to show it."""

    def register(function: Shot) -> Shot:
        SHOTS[name] = function
        return function

    return register


def workshop(stack: Stack, taken: int) -> int:
    """A public session of twelve, of which some are taken."""
    with Api(stack.url) as api:
        told = "Set a line of type by hand, ink it and print it.\nBring an old shirt; everything else is here."
        place = "Workshop, ground floor"
        session = api.new_session(public=True, description=told, location=place, capacity=12, waitlist_capacity=20)
        for _ in range(taken):
            api.reserve(session)
    return session


@shot("booking-phone")
def booking_phone(browser: Browser, stack: Stack) -> Visitor:
    """The booking page on a phone."""
    visitor = Visitor(browser, stack.url, reduced_motion="reduce", size=PHONE)
    visitor.page.goto(f"/s/{workshop(stack, 7)}")
    return visitor


@shot("booking-waiting")
def booking_waiting(browser: Browser, stack: Stack) -> Visitor:
    """Somebody waits, in Spanish, on a dark phone."""
    visitor = Visitor(browser, stack.url, reduced_motion="reduce", size=PHONE, locale="es-ES", color_scheme="dark")
    book(visitor, f"/s/{workshop(stack, 13)}")
    return visitor


@shot("booking-desk")
def booking_desk(browser: Browser, stack: Stack) -> Visitor:
    """Somebody is in, at a desk."""
    visitor = Visitor(browser, stack.url, reduced_motion="reduce", size={**DESK, "height": 620})
    book(visitor, f"/s/{workshop(stack, 7)}")
    return visitor


@shot("console")
def console(browser: Browser, stack: Stack) -> Visitor:
    """What runs, in the console, while people come."""
    visitor = Visitor(browser, stack.url, reduced_motion="reduce", size=DESK)
    visitor.page.goto("/console/")
    visitor.page.get_by_text("live", exact=True).wait_for()
    for taken in (30, 150, 400, 100, 300):
        workshop(stack, taken)
    visitor.page.get_by_text("sold out").wait_for()
    return visitor


def book(visitor: Visitor, path: str) -> None:
    """Fill in the form, and wait for the outcome."""
    page = visitor.page
    page.goto(path)
    page.locator("#name").fill("Ana")
    page.locator("#email").fill("ana@example.org")
    page.locator("#booking button").click()
    page.locator("#outcome .button").first.wait_for()


@contextmanager
def running() -> Iterator[Stack]:
    """A stack for the pictures."""
    with temporary_folder("servers") as servers_folder, temporary_folder("stack") as folder:
        servers = Servers(servers_folder, PARTITIONS)
        try:
            stack = Stack(servers.deployment(), folder)
            try:
                yield stack
            finally:
                stack.close()
        finally:
            servers.close()


def main(names: list[str]) -> None:
    """Take these pictures, or all of them."""
    with running() as stack, chromium() as browser:
        for name in names or SHOTS:
            visitor = SHOTS[name](browser, stack)
            target = DOCS / f"{name}.png"
            visitor.page.screenshot(path=target)
            visitor.close()
            print(f"docs/{name}.png: {target.stat().st_size // 1000} kB")
            if target.stat().st_size > LARGEST_BYTES:
                sys.exit(f"It is larger than {LARGEST_BYTES // 1000} kB.")


if __name__ == "__main__":
    main(sys.argv[1:])
