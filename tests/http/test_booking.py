"""The booking page below the browser: who may see it, what a form may do, and what every state of a session looks like."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from api.pages.markup import HEADERS, Markup, fill
from core.keys import new_token
from tests.support.events import Events
from tests.support.http import Api
from tests.support.stack import Stack
from tests.support.waiting import until

ANA = {"name": "Ana", "email": "ana@example.org", "seats": "1", "wait": "yes"}
OURS = {"Sec-Fetch-Site": "same-origin"}
FIRST = new_token()


def form_of(answer: httpx.Response) -> str:
    """The token of the form on a page."""
    return re.search(r'name="form" value="([^"]+)"', answer.text)[1]  # type: ignore[index]


def send(
    api: Api, session: int, token: str | None = None, headers: dict[str, str] | None = None, **fields: str
) -> httpx.Response:
    """Send the form of a session's page."""
    token = form_of(api.get(f"/s/{session}")) if token is None else token
    return api.post(f"/s/{session}", data={**ANA, "form": token, **fields}, headers=OURS if headers is None else headers)


def title_of(answer: httpx.Response) -> str:
    return html.unescape(re.search(r"<h1[^>]*>(.*?)</h1>", answer.text, re.DOTALL)[1])  # type: ignore[index]


@pytest.fixture(scope="module")
def guarded(module_stacks: Callable[..., Stack]) -> Stack:
    """A stack that asks for keys, and lets an address ask ten times."""
    return module_stacks(first_key=FIRST, auth="keys", rate_per_address="1/m burst 30", api_processes="1")


def test_a_session_has_a_page_only_if_it_is_public(api: Api) -> None:
    session = api.new_session()
    assert api.get(f"/api/sessions/{session}/").json()["public"] is False
    hidden = api.get(f"/s/{session}")
    assert (hidden.status_code, title_of(hidden)) == (404, "There is nothing here")
    assert api.patch(f"/api/sessions/{session}/", json={"public": True}).json()["public"] is True
    shown = api.get(f"/s/{session}/")
    assert (shown.status_code, title_of(shown)) == (200, "Letterpress for beginners")
    assert {name: shown.headers[name] for name in HEADERS} == dict(HEADERS)
    assert shown.headers["Cache-Control"] == "private, no-store"
    api.patch(f"/api/sessions/{session}/", json={"public": False})
    assert (api.get(f"/s/{session}").status_code, send(api, session, "x").status_code) == (404, 404)
    with Events(str(api.base_url), f"/s/{session}/events") as events:
        assert events.status == 404


def test_a_form_that_is_sent_twice_counts_once_and_leads_to_the_same_page(api: Api) -> None:
    session = api.new_session(public=True)
    token = form_of(api.get(f"/s/{session}"))
    answers = [send(api, session, token) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {303}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert api.free(session) == 2
    other = send(api, session, token, email="bo@example.org")
    assert (other.status_code, api.free(session)) == (409, 2)
    assert "sent already" in other.text
    assert send(api, session, form_of(other), email="bo@example.org").status_code == 303


def test_without_javascript_the_outcome_is_there_after_sending(api: Api) -> None:
    session = api.new_session(public=True, capacity=1)
    page = api.get(send(api, session).headers["Location"])
    assert (page.status_code, title_of(page)) == (200, "You are in")
    assert "http-equiv" not in page.text
    full = send(api, session, form_of(api.get(f"/s/{api.new_session(public=True)}")), email="bo@example.org")
    assert title_of(api.get(full.headers["Location"])) == "That did not work"


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, None),
        ({"Sec-Fetch-Site": "same-site"}, None),
        ({"Sec-Fetch-Site": "none"}, None),
        ({"Origin": "https://evil.example.org"}, None),
        ({"Origin": "null"}, None),
        (OURS, ""),
        (OURS, "00000000-000000000000000000000000-AAAAAAAAAAAAAAAAAAAAAA"),
    ],
)
def test_forms_of_others_change_nothing(api: Api, headers: dict[str, str], token: str | None) -> None:
    session = api.new_session(public=True)
    answer = send(api, session, token, headers)
    assert (answer.status_code, api.free(session)) == (403, 3)
    assert "Ana" in answer.text  # it is shown again as it was filled in, to be sent from here


def test_a_form_of_ours_passes_however_the_browser_says_so(api: Api) -> None:
    session = api.new_session(public=True)
    for headers in ({"Origin": str(api.base_url).rstrip("/")}, {}):
        assert send(api, session, None, headers, email=f"a{len(headers)}@example.org").status_code == 303


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"email": "nobody"}, "email"),
        ({"seats": "0"}, "seats"),
        ({"seats": "-1"}, "seats"),
        ({"seats": "x"}, "seats"),
        ({"seats": "99"}, "seats"),
        ({"seats": "4"}, "seats"),  # of three
    ],
)
def test_what_is_wrong_is_said_beside_the_field(api: Api, fields: dict[str, str], named: str) -> None:
    session = api.new_session(public=True)
    answer = send(api, session, None, None, **fields)
    assert (answer.status_code, api.free(session)) == (422, 3)
    assert re.findall(r'class="wrong" id="(\w+)-wrong"', answer.text) == [named]
    assert f'aria-describedby="{named}-' in answer.text or named == "seats"


def test_no_get_changes_anything_and_another_key_opens_nothing(api: Api) -> None:
    session = api.new_session(public=True)
    outcome = send(api, session).headers["Location"]
    page = api.get(outcome)
    own, calendar = (html.unescape(one) for one in reversed(re.findall(r'href="(/s/\d+/reservations/[^"]+)"', page.text)))
    assert api.get(calendar).headers["Content-Type"].startswith("text/calendar")
    shown = api.get(own)
    assert (shown.status_code, "ana" in shown.text.lower(), api.free(session)) == (200, True, 2)
    elsewhere = api.new_session(public=True)
    for path in (outcome, own, calendar):
        for wrong in (path.replace("key=", "key=x"), path.partition("?")[0], path.replace(f"/s/{session}/", f"/s/{elsewhere}/")):
            found = api.get(wrong)
            assert (found.status_code, "Ana" in found.text) == (404, False), wrong
    assert api.post(own, data={"form": "x"}, headers=OURS).status_code == 403
    assert api.free(session) == 2
    cancelled = api.post(own, data={"form": form_of(shown)}, headers=OURS)
    assert (cancelled.status_code, title_of(api.get(cancelled.headers["Location"]))) == (303, "It is cancelled")
    assert api.free(session) == 3


def later(**passed: float) -> str:
    return (datetime.now(UTC) + timedelta(**passed)).isoformat()


@pytest.mark.parametrize(
    ("fields", "text", "bookable"),
    [
        ({}, "3 of 3 places free", True),
        ({"capacity": 1}, "1 of 1 places free: the last one", True),
        ({"capacity": 0}, "There are no places", False),
        ({"capacity": 1_000_000}, "1,000,000 of 1,000,000 places free", True),
        ({"opens_at": later(days=1)}, "Reservations open on", False),
        ({"closes_at": later(days=-1)}, "takes no more reservations", False),
        ({"start_time": later(hours=-1), "end_time": later(hours=1)}, "It has started.", False),
        ({"start_time": later(hours=-2), "end_time": later(hours=-1)}, "It is over.", False),
    ],
)
def test_every_state_of_a_session_has_its_words(api: Api, fields: dict[str, Any], text: str, bookable: bool) -> None:
    page = api.get(f"/s/{api.new_session(public=True, **fields)}")
    assert (page.status_code, text in page.text, 'id="booking">' in page.text) == (200, True, bookable)


def test_without_javascript_a_page_looks_again_when_reservations_open(api: Api) -> None:
    soon = api.get(f"/s/{api.new_session(public=True, opens_at=later(seconds=100))}").text
    seconds = re.search(r'<noscript><meta http-equiv="refresh" content="(\d+)">', soon)
    assert seconds is not None
    assert 50 < int(seconds[1]) <= 100
    assert "http-equiv" not in api.get(f"/s/{api.new_session(public=True)}").text


def test_closed_and_cancelled_sessions_say_so_also_to_those_who_look_already(api: Api) -> None:
    session = api.new_session(public=True)
    with Events(str(api.base_url), f"/s/{session}/events?lang=es") as events:
        api.turn(session, "close")
        until(lambda: events.last and "Ya no admite reservas" in events.last["html"], 20)
        api.turn(session, "cancel-session")
        events.until(shape="session_cancelled")
    assert "It has been cancelled." in api.get(f"/s/{session}").text


def test_who_looks_is_told_when_the_clock_opens_and_ends_it(api: Api) -> None:
    session = api.new_session(public=True, opens_at=later(days=1))
    with Events(str(api.base_url), f"/s/{session}/events") as events:
        events.until(shape="not_open")
        api.configure(session, opens_at=later(seconds=1))
        events.until(shape="open")
        api.configure(session, start_time=later(seconds=1), end_time=later(seconds=2))
        events.until(shape="over")


def test_changed_words_and_times_reach_those_who_look(api: Api) -> None:
    session = api.new_session(public=True)
    with Events(str(api.base_url), f"/s/{session}/events") as events:
        events.until(shape="open")
        assert events.last["about"] is None
        api.patch(f"/api/sessions/{session}/", json={"title": "Letterpress for <everybody>"})
        api.reserve(session)
        until(lambda: "Letterpress for &lt;everybody&gt;" in (events.last["about"] or ""), 20)


def test_who_held_a_place_is_told_that_the_session_was_cancelled(api: Api) -> None:
    session = api.new_session(public=True)
    outcome = send(api, session).headers["Location"]
    own = html.unescape(re.findall(r'href="(/s/\d+/reservations/[^"]+)"', api.get(outcome).text)[1])
    api.turn(session, "cancel-session")
    assert title_of(api.get(outcome)) == "The session is cancelled"
    shown = api.get(own).text
    assert ("Cancelled, as the session is" in shown, "<form" in shown) == (True, False)


def test_the_waiting_list_is_for_those_who_want_it(api: Api) -> None:
    session = api.new_session(public=True, capacity=1, waitlist_capacity=1)
    api.reserve(session)
    assert "you can join the waiting list" in api.get(f"/s/{session}").text
    refused = send(api, session, None, None, wait="")
    assert (refused.status_code, "Tick the waiting list" in refused.text) == (409, True)
    assert 'value="yes" checked' not in refused.text
    waiting = api.get(send(api, session).headers["Location"])
    assert (title_of(waiting), "number 1 in line" in waiting.text) == ("You are on the waiting list", True)


def test_while_a_request_waits_its_page_says_how_long(stacks: Callable[..., Stack]) -> None:
    stack = stacks(api_processes="1")
    stack.sweeper.stop()
    stack.worker.stop()
    with Api(stack.url) as api:
        session = api.new_session(public=True)
        for _ in range(2):
            api.reserve(session, wait=None)
        sent = send(api, session, None, {**OURS, "Prefer": "respond-async"})
        page = api.get(sent.headers["Location"])
        assert (title_of(page), "2 ahead of you" in page.text) == ("Your request is in", True)
        assert '<noscript><meta http-equiv="refresh"' in page.text
        events = html.unescape(re.search(r'data-events="([^"]+)"', page.text)[1])  # type: ignore[index]
        with Events(stack.url, events) as followed:
            until(lambda: followed.last and "2 ahead of you" in followed.last["html"], 20)
            stack.worker.start()
            stack.sweeper.start()
            until(lambda: "You are in" in followed.last["html"], 20)
            assert followed.last["last"] is True


def test_the_public_needs_no_key_and_is_limited_by_its_address(guarded: Stack) -> None:
    with Api(guarded.url) as owner, Api(guarded.url) as api:
        owner.headers["Authorization"] = f"Bearer {FIRST}"
        session = owner.new_session(public=True)
        sent = send(api, session)
        assert sent.status_code == 303
        assert title_of(api.get(sent.headers["Location"])) == "You are in"
        held = owner.get(f"/api/sessions/{session}/").json()["reservations"]
        assert [one["email"] for one in held] == ["ana@example.org"]
        assert api.get(f"/api/sessions/{session}/").status_code == 401
        answers = [api.get(f"/s/{session}") for _ in range(40)]
        refused = answers[-1]
        assert (refused.status_code, refused.headers["Content-Type"]) == (429, "text/html; charset=utf-8")
        assert int(refused.headers["Retry-After"]) >= 1
        assert f'href="/s/{session}?lang=en"' in refused.text  # the way back


def test_whatever_is_filled_in_is_escaped() -> None:
    assert fill("<b>{x}</b>{y}", x="<i>&\"'", y=Markup("<br>")) == "<b>&lt;i&gt;&amp;&quot;&#x27;</b><br>"
    assert fill("{x}", x="{y}") == "{y}"


def test_addresses_that_cannot_be_are_pages_too(api: Api) -> None:
    for path in ("/s/x", "/s/0", "/s/1/no", "/s/999999999/jobs/00000000-0000-8000-8000-000000000000", "/s/1/reservations/x"):
        found = api.get(path, headers={"Accept-Language": "es"})
        assert (found.status_code, title_of(found), found.headers["Content-Language"]) == (404, "Aquí no hay nada", "es"), path
