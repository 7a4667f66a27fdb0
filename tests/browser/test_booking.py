"""The booking page in a real browser, as people meet it: on a phone, by keyboard, without JavaScript, in Spanish, in the dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import DESK, PHONE, WAIT_MS, Visitor
from tests.support.http import Api

Visit = Callable[..., Visitor]


def book(visitor: Visitor, name: str) -> None:
    """Fill in the form and send it."""
    page = visitor.page
    page.get_by_label("Name").fill(name)
    page.get_by_label("E-mail address").fill(f"{name.lower()}@example.org")
    page.get_by_role("button", name="Reserve").click()


def heading(page: Page, text: str) -> None:
    """Wait for this heading."""
    expect(page.get_by_role("heading", level=1)).to_have_text(text, timeout=WAIT_MS)


def test_four_people_three_places_and_who_waits_is_let_in_without_touching_anything(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True, capacity=3, waitlist_capacity=2)
    people = {name: visit(f"/s/{session}", size=size) for name, size in zip("ABCD", (PHONE, DESK, PHONE, DESK), strict=True)}
    watching = visit(f"/s/{session}")
    for name in "ABC":
        book(people[name], name)
        heading(people[name].page, "You are in")
        assert people[name].focused() == "You are in"
    expect(watching.page.locator("#places")).to_contain_text("All 3 places are taken", timeout=WAIT_MS)
    expect(people["D"].page.locator("#places")).to_contain_text("you can join the waiting list", timeout=WAIT_MS)
    book(people["D"], "D")
    heading(people["D"].page, "You are on the waiting list")
    expect(people["D"].page.locator("#outcome")).to_contain_text("You are number 1 in line.")
    leaving = people["B"].page
    leaving.get_by_role("link", name="See or cancel my reservation").click()
    assert api.free(session) == 0  # opening the page changed nothing
    leaving.get_by_role("button", name="Cancel my reservation").click()
    heading(leaving, "It is cancelled")
    heading(people["D"].page, "You are in")
    expect(people["D"].page.locator("#outcome")).to_contain_text("A place came free.")
    assert people["D"].focused() == "You are in"
    with people["D"].page.expect_download() as download:
        people["D"].page.get_by_role("link", name="Add to calendar").click()
    assert download.value.suggested_filename.endswith(".ics")
    held = {one["name"] for one in api.get(f"/api/sessions/{session}/").json()["reservations"]}
    assert held == {"A", "C", "D"}
    assert [one.troubles for one in (*people.values(), watching)] == [[]] * 5
    assert watching.strangers() == []


def test_it_can_be_done_with_the_keyboard_alone(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True, waitlist_capacity=1)
    visitor = visit(f"/s/{session}", size=DESK)
    keys = visitor.page.keyboard
    for expected in ("Skip to the content", "Ver en español"):
        keys.press("Tab")
        assert visitor.focused() == expected
    for text in ("Ana", "not an address", "2"):
        keys.press("Tab")
        keys.press("ControlOrMeta+a")
        keys.type(text)
    keys.press("Enter")
    expect(visitor.page.get_by_role("alert").first).to_be_focused(timeout=WAIT_MS)
    assert visitor.page.get_by_label("E-mail address").get_attribute("aria-invalid") == "true"
    assert visitor.page.get_by_label("Name").input_value() == "Ana"
    for _ in range(2):
        keys.press("Tab")
    keys.press("ControlOrMeta+a")
    keys.type("ana@example.org")
    keys.press("Enter")
    heading(visitor.page, "You are in")
    keys.press("Tab")
    keys.press("Tab")
    assert visitor.focused() == "See or cancel my reservation"
    keys.press("Enter")
    heading(visitor.page, "Your reservation")
    visitor.page.get_by_role("button", name="Cancel my reservation").focus()
    keys.press("Enter")
    heading(visitor.page, "It is cancelled")
    assert api.free(session) == 3


def test_it_works_without_javascript(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True, capacity=2)
    visitor = visit(f"/s/{session}", java_script_enabled=False)
    book(visitor, "Ana")
    heading(visitor.page, "You are in")
    again = visit(f"/s/{session}", java_script_enabled=False)
    book(again, "Ana")
    heading(again.page, "That did not work")
    expect(again.page.locator("#outcome")).to_contain_text("already holds a reservation")
    visitor.page.get_by_role("link", name="See or cancel my reservation").click()
    visitor.page.get_by_role("button", name="Cancel my reservation").click()
    heading(visitor.page, "It is cancelled")
    assert api.free(session) == 2


def test_it_speaks_spanish_when_the_browser_does_or_somebody_asks(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True)
    spanish = visit(f"/s/{session}", locale="es-ES").page
    expect(spanish.locator("#places")).to_contain_text("3 de 3 plazas libres")
    expect(spanish.locator("main")).to_contain_text("jueves, 1 de mayo de 2031")
    spanish.get_by_label("Nombre").fill("Ana")
    spanish.get_by_label("Correo electrónico").fill("ana.es@example.org")
    spanish.get_by_role("button", name="Reservar").click()
    heading(spanish, "Tiene plaza")
    spanish.get_by_role("link", name="View in English").click()
    heading(spanish, "You are in")
    english = visit(f"/s/{session}").page
    english.get_by_role("link", name="Ver en español").click()
    expect(english.locator("html")).to_have_attribute("lang", "es")
    api.reserve(session)
    expect(english.locator("#places")).to_contain_text("1 de 3 plazas libres: la última", timeout=WAIT_MS)


def test_a_lost_network_is_told_and_sending_again_counts_once(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True)
    visitor = visit(f"/s/{session}")
    visitor.context.set_offline(True)
    book(visitor, "Ana")
    expect(visitor.page.get_by_text("You can safely send it again")).to_be_visible(timeout=WAIT_MS)
    visitor.context.set_offline(False)
    visitor.page.get_by_role("button", name="Reserve").click()
    heading(visitor.page, "You are in")
    assert api.free(session) == 2


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESK, "dark")], ids=["phone-light", "desk-dark"])
def test_everybody_can_read_it(api: Api, visit: Visit, size: dict[str, int], scheme: str) -> None:
    session = api.new_session(public=True, capacity=1, waitlist_capacity=1, location="x" * 180, description="About\nit")
    visitor = visit(f"/s/{session}", size=size, color_scheme=scheme, reduced_motion="reduce")

    def is_readable(where: str) -> None:
        assert visitor.violations() == [], where
        assert visitor.overflow() <= 0, where

    is_readable("the form")
    visitor.page.get_by_role("button", name="Reserve").click()
    expect(visitor.page.get_by_role("alert").first).to_be_focused(timeout=WAIT_MS)
    is_readable("what is wrong")
    book(visitor, "Ana")
    heading(visitor.page, "You are in")
    is_readable("in")
    visitor.page.get_by_role("link", name="See or cancel my reservation").click()
    heading(visitor.page, "Your reservation")
    is_readable("one's own")
    visitor.page.goto(f"/s/{session}")
    book(visitor, "Bo")
    heading(visitor.page, "You are on the waiting list")
    is_readable("waiting")
    visitor.page.goto(f"/s/{session}")
    expect(visitor.page.locator("#places")).to_contain_text("so is the waiting list", timeout=WAIT_MS)
    is_readable("full")
    visitor.page.goto("/s/999999999")
    heading(visitor.page, "There is nothing here")
    is_readable("nothing")


def test_names_are_shown_and_never_run(api: Api, visit: Visit) -> None:
    script = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    session = api.new_session(public=True, title=script, description=script, location=script)
    visitor = visit(f"/s/{session}")
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text(script)
    visitor.page.get_by_label("Name").fill(script)
    visitor.page.get_by_label("E-mail address").fill("ana@example.org")
    visitor.page.get_by_role("button", name="Reserve").click()
    heading(visitor.page, "You are in")
    visitor.page.get_by_role("link", name="See or cancel my reservation").click()
    expect(visitor.page.get_by_text(script).first).to_be_visible(timeout=WAIT_MS)
    assert visitor.page.title() != "run"
    assert visitor.troubles == []
