"""Self-service: who has the manage token of a reservation may see it, take it into a calendar, and give it back."""

from __future__ import annotations

from typing import Any

import icalendar
import pytest

from tests.support.http import Api, person


@pytest.fixture
def held(api: Api) -> dict[str, Any]:
    session = api.new_session(title="Letterpress; for, beginners", location="Ground floor")
    job = api.reserve(session).json()
    return {**job["reservation"], "job": job["id"]}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_its_holder_sees_it_and_the_token_is_in_every_read_of_the_job(api: Api, held: dict[str, Any]) -> None:
    own = api.get(f"/api/reservations/{held['id']}", headers=bearer(held["manage_token"])).json()
    assert (own["id"], own["status"], own["position"]) == (held["id"], "confirmed", None)
    assert own["session_details"]["title"] == "Letterpress; for, beginners"
    assert api.job(held["job"])["reservation"]["manage_token"] == held["manage_token"] == own["manage_token"]
    assert len(held["manage_token"]) == 22


def test_it_can_be_given_back_once(api: Api, held: dict[str, Any]) -> None:
    path, token = f"/api/reservations/{held['id']}", bearer(held["manage_token"])
    queued = api.delete(path, headers=token)
    assert (queued.status_code, queued.json()["kind"]) == (202, "cancel")
    assert api.job(queued.json()["id"], Prefer="wait=20")["outcome"] == "cancelled"
    again = api.delete(path, headers={**token, "Prefer": "wait=20"})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    assert api.get(path, headers=token).json()["status"] == "cancelled"


def test_an_old_token_does_not_cancel_a_later_reservation_of_the_same_person(api: Api) -> None:
    session, ana = api.new_session(), person()
    old = api.reserve(session, ana).json()["reservation"]
    api.cancel(session, ana["email"])
    new = api.reserve(session, ana).json()
    answer = api.delete(f"/api/reservations/{old['id']}", headers={**bearer(old["manage_token"]), "Prefer": "wait=20"})
    assert answer.json()["code"] == "not_found"
    assert api.job(new["id"])["reservation"]["status"] == "confirmed"


def test_it_goes_into_a_calendar(api: Api, held: dict[str, Any]) -> None:
    path, token = f"/api/reservations/{held['id']}.ics", bearer(held["manage_token"])
    answer = api.get(path, headers=token)
    assert answer.headers["Content-Type"].startswith("text/calendar")
    (event,) = icalendar.Calendar.from_ical(answer.content).walk("VEVENT")
    assert (event["SUMMARY"], event["LOCATION"], event["STATUS"]) == ("Letterpress; for, beginners", "Ground floor", "CONFIRMED")
    assert event.start.isoformat() == "2031-05-01T16:00:00+00:00"
    api.delete(f"/api/reservations/{held['id']}", headers={**token, "Prefer": "wait=20"})
    cancelled = icalendar.Calendar.from_ical(api.get(path, headers=token).content)
    assert (cancelled["METHOD"], cancelled.walk("VEVENT")[0]["STATUS"]) == ("CANCEL", "CANCELLED")


@pytest.mark.parametrize("suffix", ["", ".ics"])
def test_nobody_else_gets_in(api: Api, held: dict[str, Any], suffix: str) -> None:
    path = f"/api/reservations/{held['id']}{suffix}"
    for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}):
        answer = api.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"], answer.headers["WWW-Authenticate"]) == (
            401,
            "token_required",
            "Bearer",
        )
    other = api.reserve(api.new_session()).json()["reservation"]
    for token in ("x", "A" * 22, other["manage_token"], held["manage_token"][:-1]):
        answer = api.get(path, headers=bearer(token))
        assert (answer.status_code, answer.json()["code"]) == (404, "reservation_not_found")
    assert api.get(f"/api/reservations/999999{suffix}", headers=bearer(held["manage_token"])).status_code == 404
