"""The console in a real browser: somebody signs in, runs a session, checks people in, and looks after what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ops import keys
from tests.support.browser import DESK, Visitor
from tests.support.http import Api, person
from tests.support.stack import Stack
from tests.support.waiting import until

KILLER = "ends.its.worker@example.org"
EVERYTHING = ("read", "reserve", "attendees", "manage", "operate")
LONG = "The very long night of the very long titles, in which nobody leaves before everybody has said what they came to say"
PAGES = ("#/", "#/sessions", "#/sessions/new", "#/people", "#/quarantine")


@pytest.fixture(scope="module")
def guarded(module_stacks: Callable[..., Stack]) -> Stack:
    """A stack that asks for keys, and whose workers die of one person."""
    return module_stacks(auth="keys", crash_at=f"deciding={KILLER}")


def key(stack: Stack, *scopes: str) -> str:
    settings = stack.deployment.settings(owner_url=stack.deployment.owner_url)
    return keys.create(settings, "desk", list(scopes), None)[0]


@pytest.fixture
def api(guarded: Stack) -> Iterator[Api]:
    """Who may do everything."""
    with Api(guarded.url) as client:
        client.headers["Authorization"] = f"Bearer {key(guarded, *EVERYTHING)}"
        yield client


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Key").fill(token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Now")).to_be_visible()


def look(visitor: Visitor) -> None:
    """What has to be so of every page."""
    assert visitor.violations() == []
    assert visitor.overflow() <= 0
    assert visitor.strangers() == []
    assert visitor.troubles == []


def test_somebody_signs_in_makes_a_session_resizes_it_and_checks_people_in(
    guarded: Stack, visit: Callable[..., Visitor], api: Api
) -> None:
    visitor = visit("/console/", url=guarded.url, size=DESK)
    page = visitor.page
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    look(visitor)
    page.get_by_label("Key").fill(key(guarded, "read"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("The console needs a key with the scope operate.")).to_be_visible()
    visitor.troubles.clear()  # that it was refused stands in the browser's console too
    sign_in(page, key(guarded, *EVERYTHING))

    page.get_by_role("link", name="Sessions").click()
    page.get_by_role("link", name="New session").click()
    page.get_by_label("Title").fill("Letterpress at the desk")
    page.get_by_label("Places", exact=True).fill("2")
    page.get_by_role("button", name="Create the session").click()
    expect(page.get_by_role("heading", name="Letterpress at the desk")).to_be_visible()
    session = int(page.url.rpartition("/")[2])
    expect(page.get_by_text("0 of 2 taken")).to_be_visible()
    page.get_by_label("Places", exact=True).fill("3")
    page.get_by_label("May wait").fill("1")
    page.get_by_role("button", name="Save the size").click()
    expect(page.get_by_text("0 of 3 taken")).to_be_visible()

    ana, bo = {"name": "Anna", "email": "ana.at.the.desk@example.org"}, person()
    api.reserve(session, ana)
    api.reserve(session, {**bo, "seats": 2})
    api.reserve(session)
    expect(page.get_by_text("3 of 3 taken, 1 waiting")).to_be_visible()  # without touching anything
    expect(page.get_by_text("3 reservations, 0 checked in.")).to_be_visible()
    page.get_by_role("button", name=f"Check in: {bo['name']}").click()
    expect(page.get_by_text("3 reservations, 1 checked in.")).to_be_visible()
    look(visitor)

    page.get_by_role("link", name="People").click()
    page.get_by_label("E-mail address").fill(ana["email"].upper())
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Correct the name Anna").click()
    page.get_by_label("Name", exact=True).fill("Ana")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Check in: Ana", exact=True).click()
    expect(page.get_by_text("here since")).to_be_visible()
    (held,) = api.get("/api/reservations/", params={"email": ana["email"]}).json()["results"]
    assert (held["name"], held["checked_in_at"] is not None) == ("Ana", True)
    page.get_by_role("button", name="Undo: Ana").click()
    expect(page.get_by_role("button", name="Check in: Ana", exact=True)).to_be_visible()
    look(visitor)

    page.goto(f"/console/#/sessions/{session}")
    page.get_by_role("button", name="Take no more reservations").click()
    expect(page.get_by_text("closed", exact=True)).to_be_visible()
    page.get_by_role("button", name="Take reservations again").click()
    page.get_by_label("Places", exact=True).fill("1")
    page.get_by_role("button", name="Save the size").click()
    expect(page.get_by_text("More places are taken than would be left.")).to_be_visible()
    visitor.troubles.clear()  # that refusal again
    page.get_by_role("button", name="Cancel the session …").click()
    page.get_by_role("button", name="Keep it as it is").click()
    page.get_by_role("button", name="Cancel the session …").click()
    page.get_by_role("button", name="Cancel the session", exact=True).click()
    expect(page.get_by_text("It does not take place.")).to_be_visible()
    assert api.get(f"/api/sessions/{session}/").json()["state"] == "cancelled"
    look(visitor)

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_session_is_made_resized_and_somebody_checked_in_with_the_keyboard_alone(
    guarded: Stack, visit: Callable[..., Visitor], api: Api
) -> None:
    visitor = visit("/console/", url=guarded.url, size=DESK)
    page, keys_of = visitor.page, visitor.page.keyboard
    expect(page.get_by_label("Key")).to_be_focused()
    keys_of.type(key(guarded, *EVERYTHING))
    keys_of.press("Enter")
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    for link in ("Sessions", "New session"):
        visitor.tab_to(link)
        keys_of.press("Enter")
        expect(page.get_by_role("heading", name=link, exact=True)).to_be_visible()
    for label, text in (("Title", "By keyboard"), ("Places", "1"), ("May wait", "1")):
        visitor.tab_to(label)
        keys_of.press("ControlOrMeta+a")
        keys_of.type(text)
    keys_of.press("Enter")
    expect(page.get_by_text("0 of 1 taken")).to_be_visible()
    session = int(page.url.rpartition("/")[2])
    people = [person(), person()]
    for one in people:
        api.reserve(session, one)
    expect(page.get_by_text("1 of 1 taken, 1 waiting")).to_be_visible()

    visitor.tab_to("Change the session")
    keys_of.press("Enter")
    visitor.tab_to("Places", most=1)
    keys_of.press("ControlOrMeta+a")
    keys_of.type("2")
    keys_of.press("Enter")
    expect(page.get_by_role("status").filter(has_text="The session has a new size.")).to_be_visible()
    expect(page.get_by_text("2 of 2 taken")).to_be_visible()
    expect(page.get_by_label("Places", exact=True)).to_be_focused()

    visitor.tab_to("Show only", back=True)
    keys_of.type(people[1]["email"])
    expect(page.get_by_text("1 of 2 shown")).to_be_visible()
    api.cancel(session, people[0]["email"])  # the list is made anew under the hands of who types
    expect(page.get_by_text("1 of 1 shown")).to_be_visible()
    expect(page.get_by_label("Show only")).to_be_focused()
    visitor.tab_to(f"Check in: {people[1]['name']}")
    keys_of.press("Space")
    expect(page.get_by_text("1 reservation, 1 checked in.")).to_be_visible()
    expect(page.get_by_role("button", name=f"Undo: {people[1]['name']}")).to_be_focused()
    visitor.tab_to(f"Correct the name {people[1]['name']}", back=True)
    keys_of.press("Enter")
    keys_of.press("Escape")
    assert visitor.focused() == "Correct"

    visitor.tab_to("Take no more reservations")
    keys_of.press("Enter")
    expect(page.get_by_role("button", name="Take reservations again")).to_be_focused()
    visitor.tab_to("Cancel the session …")
    keys_of.press("Enter")
    expect(page.get_by_role("button", name="Keep it as it is")).to_be_focused()
    keys_of.press("Escape")
    assert visitor.focused() == "Cancel the session …"
    keys_of.press("Enter")
    visitor.tab_to("Cancel the session", back=True, most=2)
    keys_of.press("Enter")
    expect(page.get_by_text("It does not take place.", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="By keyboard")).to_be_focused()
    assert visitor.troubles == []


def test_the_console_finds_its_way_back_when_the_service_was_away(visit: Callable[..., Visitor], live_api: Stack) -> None:
    with Api(live_api.url) as open_api:
        session = open_api.new_session(title="Away for a while")
    visitor = visit("/console/")
    page = visitor.page
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.route("**/api/**", lambda route: route.abort())
    page.goto("/console/#/sessions")
    expect(page.get_by_text("The service cannot be reached.").first).to_be_visible()
    page.evaluate(f"location.hash = '#/sessions/{session}'")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.unroute("**/api/**")
    expect(page.get_by_role("heading", name="Away for a while")).to_be_visible()
    expect(page.get_by_text("live", exact=True)).to_be_visible()


def test_what_a_key_does_not_allow_is_not_shown_and_a_revoked_one_ends_it(guarded: Stack, visit: Callable[..., Visitor]) -> None:
    visitor = visit("/console/", url=guarded.url)
    page, token = visitor.page, key(guarded, "operate")
    sign_in(page, token)
    links = page.get_by_role("navigation", name="Console").get_by_role("link")
    assert links.all_inner_texts() == ["Now", "Quarantine"]
    page.goto("/console/#/people")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    links.first.click()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    settings = guarded.deployment.settings(owner_url=guarded.deployment.owner_url)
    keys.revoke(settings, token.split("_")[1])
    expect(page.get_by_text("You are signed out")).to_be_visible()


def test_what_was_set_aside_is_looked_at_and_sent_again(guarded: Stack, visit: Callable[..., Visitor], api: Api) -> None:
    accepted = api.reserve(api.new_session(), {"name": "Kit", "email": KILLER}, wait=None).json()
    until(lambda: api.job(accepted["id"])["outcome"] == "quarantined", 60, "it is set aside")
    visitor = visit("/console/", url=guarded.url)
    page = visitor.page
    sign_in(page, key(guarded, "operate"))
    page.get_by_role("link", name="Quarantine").click()
    card = page.get_by_role("article").filter(has_text=accepted["id"])
    card.get_by_text("What it asks for").click()
    expect(card.get_by_text('"name": "***"')).to_be_visible()  # this key may not see whose it is
    look(visitor)
    card.get_by_role("button", name="Send again …").click()
    page.get_by_role("button", name="Send again", exact=True).click()
    expect(card.get_by_text("sent again", exact=False)).to_be_visible()
    (again,) = [one["sent_again"] for one in api.get("/api/quarantine/").json()["commands"] if one["job"] == accepted["id"]]
    assert api.job(again["job"])["seq"] == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_fit_for_a_phone_and_a_desk_in_the_light_and_in_the_dark(
    visit: Callable[..., Visitor], live_api: Stack, scheme: str
) -> None:
    with Api(live_api.url) as open_api:
        session = open_api.new_session(title=LONG, capacity=1_000_000, waitlist_capacity=1_000_000)
        people: list[dict[str, Any]] = [person(), {**person(), "name": "Wanda-Maximiliane von und zu Hohenstein-Langenburg"}]
        for one in people:
            open_api.reserve(session, one)
    visitor = visit("/console/", color_scheme=scheme)
    page = visitor.page
    for place in (*PAGES, f"#/sessions/{session}"):
        page.goto(f"/console/{place}")
        expect(page.get_by_text("Loading …")).to_have_count(0)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if place == "#/":
            expect(page.get_by_text("live", exact=True)).to_be_visible()
        for size in (DESK, {"width": 390, "height": 844}):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            look(visitor)
