"""The life of a session over HTTP: seats, waitlist, resizing, closing, cancelling, windows, forecasts."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from ops import verify
from tests.support.http import Api, person
from tests.support.stack import Stack
from tests.support.waiting import until


def party(seats: int, name: str | None = None) -> dict[str, Any]:
    return {**person(name), "seats": seats}


def status_of(api: Api, job: dict[str, Any]) -> str:
    return api.job(job["id"])["reservation"]["status"]


def test_a_reservation_holds_as_many_seats_as_it_asks_for_and_gives_some_back(api: Api) -> None:
    session = api.new_session(capacity=5, max_seats_per_reservation=4)
    ana = party(4)
    assert api.reserve(session, party(5)).json()["code"] == "too_many_seats"
    assert api.reserve(session, ana).json()["reservation"]["seats"] == 4
    assert api.reserve(session, party(2)).json()["code"] == "sold_out"
    reduced = api.cancel(session, ana["email"], seats=3).json()
    assert (reduced["outcome"], reduced["reservation"]["seats"], reduced["reservation"]["status"]) == ("reduced", 1, "confirmed")
    assert api.free(session) == 4
    assert api.cancel(session, ana["email"], seats=2).json()["code"] == "too_many_seats"
    assert api.cancel(session, ana["email"], seats=1).json()["outcome"] == "cancelled"
    for seats in (0, 21, "2", 1.5, True):
        assert api.reserve(session, {**person(), "seats": seats}).json()["errors"][0]["field"] == "seats"


def test_who_waits_is_let_in_in_order_and_nobody_overtakes(api: Api) -> None:
    session = api.new_session(capacity=1, waitlist_capacity=2)
    ana, bo, cy = person(), person(), person()
    api.reserve(session, ana)
    first, second = (api.reserve(session, who) for who in (bo, cy))
    assert (first.status_code, first.json()["outcome"]) == (201, "waitlisted")
    assert [answer.json()["reservation"]["position"] for answer in (first, second)] == [1, 2]
    assert api.reserve(session).json()["code"] == "sold_out"
    shown = api.get(f"/api/sessions/{session}/").json()
    assert (shown["waiting"], shown["waitlist_capacity"], shown["available_slots"]) == (2, 2, 0)
    api.cancel(session, ana["email"])
    promoted = api.job(first.json()["id"])
    assert (promoted["outcome"], promoted["reservation"]["status"], promoted["reservation"]["position"]) == (
        "waitlisted",
        "confirmed",
        None,
    )
    assert api.job(second.json()["id"])["reservation"]["position"] == 1
    assert api.reserve(session, ana).json()["reservation"]["position"] == 2
    api.cancel(session, cy["email"])  # from the waitlist: no seat comes free
    assert (api.free(session), api.get(f"/api/sessions/{session}/").json()["waiting"]) == (0, 1)


def test_the_first_waits_until_it_fits_or_the_first_that_fits_goes(api: Api) -> None:
    for policy, let_in in (("strict", []), ("fill", ["small"])):
        session = api.new_session(capacity=3, waitlist_capacity=9, waitlist_policy=policy)
        holder = party(1)
        api.reserve(session, party(2))
        api.reserve(session, holder)
        big, small = (api.reserve(session, party(seats)).json() for seats in (3, 1))
        api.cancel(session, holder["email"])
        jobs = {"big": big, "small": small}
        assert [name for name, job in jobs.items() if status_of(api, job) == "confirmed"] == let_in


def test_growing_lets_in_and_shrinking_refuses_or_sends_back(api: Api) -> None:
    session = api.new_session(capacity=2, waitlist_capacity=9)
    jobs = [api.reserve(session).json() for _ in range(4)]
    assert api.configure(session, capacity=4).json()["outcome"] == "resized"
    assert [status_of(api, job) for job in jobs] == ["confirmed"] * 4
    refused = api.configure(session, capacity=1)
    assert (refused.status_code, refused.json()["code"]) == (409, "below_reserved")
    late = api.reserve(session).json()
    assert api.configure(session, capacity=2, on_shrink="waitlist").json()["outcome"] == "resized"
    assert [status_of(api, job) for job in jobs] == ["confirmed", "confirmed", "waitlisted", "waitlisted"]
    assert [api.job(job["id"])["reservation"]["position"] for job in (*jobs[2:], late)] == [1, 2, 3]
    assert api.configure(session, waitlist_capacity=1).json()["code"] == "below_reserved"


def test_a_closed_session_refuses_reserves_and_still_moves_its_waitlist(api: Api) -> None:
    session = api.new_session(capacity=1, waitlist_capacity=1)
    ana = person()
    api.reserve(session, ana)
    waiting = api.reserve(session).json()
    assert api.turn(session, "close").json()["outcome"] == "session_closed"
    assert api.reserve(session).json()["code"] == "closed"
    shown = api.get(f"/api/sessions/{session}/").json()
    assert (shown["state"], shown["closed_at"] is None) == ("closed", False)
    assert session not in [s["id"] for s in api.get("/api/sessions/?page_size=100&ordering=-id").json()["results"]]
    api.cancel(session, ana["email"])
    assert status_of(api, waiting) == "confirmed"
    assert api.turn(session, "reopen").json()["outcome"] == "session_reopened"
    assert api.reserve(session, ana).json()["outcome"] == "waitlisted"


def test_cancelling_a_session_is_in_effect_at_once_for_every_reader(api: Api, live_api: Stack) -> None:
    session = api.new_session(capacity=2, waitlist_capacity=5)
    ana = person()
    jobs = [api.reserve(session, who).json() for who in (ana, person(), person())]
    assert api.turn(session, "cancel-session").json()["outcome"] == "cancelled"
    assert [status_of(api, job) for job in jobs] == ["cancelled"] * 3
    shown = api.get(f"/api/sessions/{session}/").json()
    assert (shown["state"], shown["available_slots"], shown["reserved"], shown["waiting"]) == ("cancelled", 0, 0, 0)
    assert shown["reservations"] == []
    rows = api.get(f"/api/sessions/{session}/reservations/?status=all").json()["results"]
    assert [(row["status"], row["cancelled_at"] is None) for row in rows] == [("cancelled", False)] * 3
    for answer in (
        api.reserve(session, ana),
        api.cancel(session, ana["email"]),
        api.turn(session, "reopen"),
        api.configure(session, capacity=9),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "session_cancelled")
    until(lambda: not live_api.deployment.sql("SELECT 1 FROM sessions WHERE untidy"), 10, "the rows follow")
    statuses = live_api.deployment.sql("SELECT DISTINCT status FROM reservations WHERE session_id = %s", session)
    assert statuses == [("cancelled",)]
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []


def test_windows_are_judged_by_the_time_of_acceptance(api: Api) -> None:
    now = datetime.now(UTC)
    soon, past = (now + timedelta(days=1)).isoformat(), (now - timedelta(days=1)).isoformat()
    session = api.new_session(opens_at=soon)
    assert api.reserve(session).json()["code"] == "not_open"
    assert api.configure(session, opens_at=past).json()["outcome"] == "configured"
    ana = person()
    assert api.reserve(session, ana).status_code == 201
    api.configure(session, opens_at=None, closes_at=past)
    assert api.reserve(session).json()["code"] == "closed"
    api.configure(session, closes_at=None, start_time=past)
    assert api.reserve(session).json()["code"] == "started"
    assert api.cancel(session, ana["email"]).json()["code"] == "started"
    assert api.configure(session, opens_at=soon, closes_at=past).json()["errors"][0]["field"] == "closes_at"


def test_the_receipt_says_what_would_become_of_a_reserve(api: Api) -> None:
    session = api.new_session(capacity=1, waitlist_capacity=1)
    forecasts = []
    for _ in range(3):
        job = api.reserve(session, wait=None).json()
        forecasts.append(job["forecast"])
        assert api.job(job["id"], Prefer="wait=20")["forecast"] is None
    assert forecasts == [
        {"outcome": "confirmed", "position": None, "binding": False},
        {"outcome": "waitlisted", "position": 1, "binding": False},
        {"outcome": "sold_out", "position": None, "binding": False},
    ]
    assert api.cancel(session, person()["email"], wait=None).json()["forecast"] is None


def test_a_read_can_wait_for_what_was_accepted(api: Api) -> None:
    session = api.new_session()
    for path in (f"/api/sessions/{session}/", f"/api/sessions/{session}/reservations/"):
        seq = api.reserve(session, wait=None).json()["seq"]
        shown = api.get(path, params={"min_seq": seq}).json()
        assert shown["as_of_seq"] >= seq
    started = time.monotonic()
    never = api.get(f"/api/sessions/{session}/", params={"min_seq": 99})
    assert time.monotonic() - started < 3  # nobody has sent it, so there is nothing to wait for
    assert (never.status_code, never.json()["code"], "Retry-After" in never.headers) == (503, "not_yet_applied", True)
    assert api.get("/api/sessions/999999999/?min_seq=1").status_code == 404


def test_everything_above_replays(api: Api, live_api: Stack) -> None:
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []
