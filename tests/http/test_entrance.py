"""At the entrance: people are found by their address, names are corrected, and who comes is checked in."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.http import Api, person


def amend(api: Api, reservation: int, wait: int | None = 20, key: str | None = None, **changes: Any) -> httpx.Response:
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return api.patch(f"/api/reservations/{reservation}", json=changes, headers=headers)


def found(api: Api, email: str, **words: Any) -> list[dict[str, Any]]:
    answer = api.get("/api/reservations/", params={"email": email, **words})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_whoever_comes_is_checked_in_once_and_from_the_first_time_on(api: Api) -> None:
    ana = person()
    held = api.reserve(api.new_session(), ana).json()["reservation"]["id"]
    assert found(api, ana["email"])[0]["checked_in_at"] is None
    came = amend(api, held, checked_in=True)
    assert (came.status_code, came.json()["kind"], came.json()["outcome"]) == (200, "amend", "amended")
    assert came.json()["reservation"]["id"] == held
    since = found(api, ana["email"])[0]["checked_in_at"]
    assert since == came.json()["accepted_at"]
    assert amend(api, held, checked_in=True).json()["outcome"] == "amended"
    assert found(api, ana["email"])[0]["checked_in_at"] == since
    assert amend(api, held, checked_in=False).json()["outcome"] == "amended"
    assert found(api, ana["email"])[0]["checked_in_at"] is None


def test_a_name_is_corrected_in_its_turn_and_nothing_else_changes(api: Api) -> None:
    session, ana = api.new_session(), person()
    held = api.reserve(session, ana).json()["reservation"]["id"]
    before = found(api, ana["email"])[0]
    queued = amend(api, held, wait=None, name=" Ana María ")
    assert (queued.status_code, queued.json()["seq"]) == (202, 2)
    assert api.job(queued.json()["id"], Prefer="wait=20")["outcome"] == "amended"
    assert found(api, ana["email"])[0] == {**before, "name": "Ana María"}
    assert api.get(f"/api/sessions/{session}/").json()["reservations"][0]["name"] == "Ana María"


def test_the_same_key_is_the_same_change(api: Api) -> None:
    held = api.reserve(api.new_session()).json()["reservation"]["id"]
    first = amend(api, held, key="at-the-door-1", checked_in=True)
    again = amend(api, held, key="at-the-door-1", checked_in=True)
    assert (again.json()["id"], again.headers["Idempotency-Replayed"]) == (first.json()["id"], "true")
    assert amend(api, held, key="at-the-door-1", checked_in=False).json()["code"] == "idempotency_key_reused"


def test_who_waits_who_cancelled_and_who_is_unknown_cannot_be_checked_in(api: Api) -> None:
    session = api.new_session(capacity=1, waitlist_capacity=1)
    api.reserve(session)
    bo = person()
    waits = api.reserve(session, bo).json()["reservation"]["id"]
    refused = amend(api, waits, checked_in=True)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_confirmed")
    assert amend(api, waits, name="Beatriz").json()["outcome"] == "amended"
    api.cancel(session, bo["email"])
    for changes in ({"checked_in": True}, {"name": "Bo"}):
        gone = amend(api, waits, **changes)
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    for unknown in ("999999", "nobody"):
        answer = api.patch(f"/api/reservations/{unknown}", json={"checked_in": True})
        assert (answer.status_code, answer.json()["code"]) == (404, "reservation_not_found")
    api.turn(session, "cancel-session")
    again = amend(api, waits, checked_in=True)
    assert (again.status_code, again.json()["code"]) == (409, "session_cancelled")


@pytest.mark.parametrize(
    ("body", "field"), [({}, ""), ({"checked_in": "yes"}, "checked_in"), ({"name": ""}, "name"), ({"email": "x"}, "email")]
)
def test_what_cannot_be_changed_is_named(api: Api, body: dict[str, Any], field: str) -> None:
    held = api.reserve(api.new_session()).json()["reservation"]["id"]
    answer = api.patch(f"/api/reservations/{held}", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_an_amended_job_shows_its_reservation_as_it_is_by_now(api: Api) -> None:
    session, ana = api.new_session(), person()
    held = api.reserve(session, ana).json()["reservation"]["id"]
    came = amend(api, held, checked_in=True).json()
    api.cancel(session, ana["email"])
    assert api.job(came["id"])["reservation"]["status"] == "cancelled"


def test_people_are_found_by_any_spelling_of_their_address_the_newest_first(api: Api) -> None:
    ana = {"name": "Ana", "email": "Ana.Finds+it@Example.org"}
    first, second, third = (api.new_session(title=f"Evening {n}") for n in range(3))
    for session in (first, second, third):
        api.reserve(session, ana)
    api.cancel(second, ana["email"])
    for spelling in ("ana.finds+it@example.org", " ANA.FINDS+IT@EXAMPLE.ORG "):
        assert [one["session"] for one in found(api, spelling)] == [third, first]
    everything = found(api, ana["email"], status="all")
    assert [(one["session_details"]["title"], one["status"]) for one in everything] == [
        ("Evening 2", "confirmed"),
        ("Evening 1", "cancelled"),
        ("Evening 0", "confirmed"),
    ]
    assert [one["session"] for one in found(api, ana["email"], session=first)] == [first]
    api.turn(third, "cancel-session")
    assert [one["session"] for one in found(api, ana["email"])] == [first]
    assert found(api, ana["email"], session=third, status="all")[0]["status"] == "cancelled"
    assert found(api, "nobody.at.all@example.org") == []


def test_a_long_list_comes_in_pages(api: Api) -> None:
    ana = person()
    sessions = [api.new_session() for _ in range(5)]
    for session in sessions:
        api.reserve(session, ana)
    seen: list[int] = []
    path: str | None = "/api/reservations/"
    words: dict[str, Any] | None = {"email": ana["email"], "page_size": 2}
    while path:
        page = api.get(path, params=words).json()
        seen += [one["session"] for one in page["results"]]
        path, words = page["next"], None
    assert seen == sessions[::-1]


@pytest.mark.parametrize(
    ("words", "field"),
    [({}, "email"), ({"email": "ana"}, "email"), ({"email": "a@b.org", "session": "x"}, "session"),
     ({"email": "a@b.org", "cursor": "!"}, "cursor")],
)  # fmt: skip
def test_a_search_that_makes_no_sense_is_answered_in_words(api: Api, words: dict[str, str], field: str) -> None:
    answer = api.get("/api/reservations/", params=words)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
