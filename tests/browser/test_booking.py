"""The booking page in a real browser, as people meet it: on a phone, by keyboard, without JavaScript, in Spanish, in the dark."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser import DESK, PHONE, Visitor
from tests.support.http import Api, person

Visit = Callable[..., Visitor]


def book(visitor: Visitor, name: str) -> None:
    """Fill in the form and send it."""
    page = visitor.page
    page.get_by_label("Name").fill(name)
    page.get_by_label("E-mail address").fill(f"{name.lower()}@example.org")
    page.get_by_role("button", name="Reserve").click()


def later(**passed: float) -> str:
    return (datetime.now(UTC) + timedelta(**passed)).isoformat()


def heading(page: Page, text: str) -> None:
    """Wait for this heading."""
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def test_four_people_three_places_and_who_waits_is_let_in_without_touching_anything(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True, capacity=3, waitlist_capacity=2)
    people = {name: visit(f"/s/{session}", size=size) for name, size in zip("ABCD", (PHONE, DESK, PHONE, DESK), strict=True)}
    watching = visit(f"/s/{session}")
    for name in "ABC":
        book(people[name], name)
        heading(people[name].page, "You are in")
        assert people[name].focused() == "You are in"
    expect(watching.page.locator("#places")).to_contain_text("All 3 places are taken")
    expect(people["D"].page.locator("#places")).to_contain_text("you can join the waiting list")
    book(people["D"], "D")
    heading(people["D"].page, "You are on the waiting list")
    expect(people["D"].page.locator("#outcome")).to_contain_text("You are number 1 in line.")
    leaving = people["B"].page
    leaving.get_by_role("link", name="See or cancel my reservation").click()
    assert api.free(session) == 0  # opening the page changed nothing
    leaving.get_by_role("button", name="Cancel my reservation").click()
    heading(leaving, "It is cancelled")
    heading(people["D"].page, "You are in")
    expect(people["D"].page).to_have_title("You are in · Letterpress for beginners")
    expect(people["D"].page.locator("#outcome")).to_contain_text("A place came free.")
    assert people["D"].focused() == "You are in"
    with people["D"].page.expect_download() as download:
        people["D"].page.get_by_role("link", name="Add to calendar").click()
    assert download.value.suggested_filename.endswith(".ics")
    held = {one["name"] for one in api.get(f"/api/sessions/{session}/").json()["reservations"]}
    assert held == {"A", "C", "D"}
    assert [one.troubles for one in (*people.values(), watching)] == [[]] * 5
    assert watching.strangers() == []


def test_somebody_books_waits_and_cancels_with_the_keyboard_alone(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True, capacity=1, waitlist_capacity=1)
    first = person()
    api.reserve(session, first)
    visitor = visit(f"/s/{session}", size=DESK)
    page, keys = visitor.page, visitor.page.keyboard
    assert visitor.tab(3) == ["Skip to the content", "Ver en español", ""]
    keys.type("Ana")
    assert visitor.tab(1) == [""]
    keys.type("not an address")
    assert visitor.tab(2) == ["yes", "Reserve"]
    keys.press("Enter")
    expect(page.get_by_role("alert").first).to_be_focused()
    assert page.get_by_label("E-mail address").get_attribute("aria-invalid") == "true"
    assert visitor.tab(2) == ["Ana", "not an address"]
    keys.press("ControlOrMeta+a")
    keys.type("ana@example.org")
    keys.press("Tab")
    keys.press("Space")  # not to wait
    keys.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("Tick the waiting list")
    assert visitor.tab(3) == ["Ana", "ana@example.org", "yes"]
    keys.press("Space")
    keys.press("Enter")
    heading(page, "You are on the waiting list")
    assert visitor.focused() == "You are on the waiting list"
    expect(page.locator("#said")).to_contain_text("You are number 1 in line.")
    api.cancel(session, first["email"])
    heading(page, "You are in")
    assert visitor.focused() == "You are in"
    expect(page.locator("#said")).to_contain_text("A place came free.")
    assert visitor.tab(2) == ["Add to calendar", "See or cancel my reservation"]
    assert visitor.tab(2, back=True) == ["Add to calendar", "Ver en español"]
    visitor.tab(2)
    keys.press("Enter")
    heading(page, "Your reservation")
    assert visitor.tab(4)[-2:] == ["Add to calendar", "Cancel my reservation"]
    assert visitor.tab(1) == ["Back to the session"]
    visitor.tab(1, back=True)
    keys.press("Enter")
    heading(page, "It is cancelled")
    assert visitor.focused() == "It is cancelled"
    assert api.free(session) == 1


def test_the_form_comes_and_goes_by_the_servers_clock(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True, opens_at=later(days=1))
    visitor = visit(f"/s/{session}")
    page = visitor.page
    page.clock.set_fixed_time("2001-01-01T00:00:00Z")
    expect(page.locator("#places")).to_contain_text("Reservations open on")
    expect(page.get_by_role("button", name="Reserve")).to_be_hidden()
    api.configure(session, opens_at=later(seconds=1))
    page.get_by_label("Name").fill("Ana")  # as soon as it is there
    assert "opens" not in page.locator("#places").inner_text()
    api.configure(session, closes_at=later(seconds=1))
    expect(page.locator("#places")).to_contain_text("It takes no more reservations.")
    expect(page.get_by_label("Name")).to_be_hidden()
    expect(page.locator("#places")).to_be_focused()  # the field that had the focus is gone
    expect(page.locator("#said")).to_contain_text("It takes no more reservations.")


def test_a_page_without_a_stream_says_so_looks_by_itself_and_catches_up(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True, capacity=9)
    visitor = visit(f"/s/{session}")
    page = visitor.page
    page.route("**/events?*", lambda route: route.fulfill(status=503))
    page.reload()
    api.reserve(session)
    expect(page.locator("#lost")).to_be_visible()
    expect(page.locator("#said")).to_contain_text("There is no connection at the moment")
    expect(page.locator("#places")).to_contain_text("8 of 9")
    page.unroute("**/events?*")
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(page.locator("#lost")).to_be_hidden()
    api.patch(f"/api/sessions/{session}/", json={"public": False})
    page.evaluate("window.dispatchEvent(new Event('online'))")
    heading(page, "There is nothing here")


def test_what_was_typed_stays_when_the_form_is_turned_away(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True)
    visitor = visit(f"/s/{session}")

    def turn_away(route: Route) -> None:
        route.fulfill(response=route.fetch(url=visitor.page.url.replace(f"/s/{session}", "/s/x"), method="GET"), status=429)

    visitor.page.route(f"**/s/{session}?*", turn_away)
    book(visitor, "Ana")
    expect(visitor.page.get_by_role("alert")).to_contain_text("This session does not exist")  # what it said
    expect(visitor.page.get_by_label("Name")).to_have_value("Ana")
    visitor.page.unroute(f"**/s/{session}?*")
    visitor.page.get_by_role("button", name="Reserve").click()
    heading(visitor.page, "You are in")


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
    expect(english.locator("#places")).to_contain_text("1 de 3 plazas libres: la última")


def test_a_lost_network_is_told_and_sending_again_counts_once(api: Api, visit: Visit) -> None:
    session = api.new_session(public=True)
    visitor = visit(f"/s/{session}")
    visitor.context.set_offline(True)
    book(visitor, "Ana")
    expect(visitor.page.get_by_text("You can safely send it again")).to_be_visible()
    visitor.context.set_offline(False)
    visitor.page.get_by_role("button", name="Reserve").click()
    heading(visitor.page, "You are in")
    assert api.free(session) == 2


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESK, "dark")], ids=["phone-light", "desk-dark"])
def test_everybody_can_read_it(api: Api, visit: Visit, size: dict[str, int], scheme: str) -> None:
    session = api.new_session(public=True, capacity=1, waitlist_capacity=1, title="T" * 120, location="x" * 180)
    visitor = visit(f"/s/{session}", size=size, color_scheme=scheme, reduced_motion="reduce")

    def is_readable(where: str) -> None:
        assert visitor.violations() == [], where
        assert visitor.overflow() <= 0, where

    is_readable("the form")
    visitor.page.get_by_role("button", name="Reserve").click()
    expect(visitor.page.get_by_role("alert").first).to_be_focused()
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
    expect(visitor.page.locator("#places")).to_contain_text("so is the waiting list")
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
    expect(visitor.page.get_by_text(script).first).to_be_visible()
    assert visitor.page.title() != "run"
    assert visitor.troubles == []
