"""Creating sessions and changing what describes them."""

from __future__ import annotations

from tests.support.http import SESSION, Api


def test_a_new_session_reads_as_it_was_given(api: Api) -> None:
    given = {**SESSION, "description": "Two lines:\nthe second.", "location": "Ground floor", "capacity": 0}
    answer = api.post("/api/sessions/", json=given)
    made = answer.json()
    assert answer.headers["Location"] == f"/api/sessions/{made['id']}/"
    assert {name: made[name] for name in ("title", "description", "location", "capacity")} == {
        name: given[name] for name in ("title", "description", "location", "capacity")
    }
    assert (made["start_time"], made["end_time"]) == ("2031-05-01T16:00:00.000Z", "2031-05-01T18:00:00.000Z")
    assert (made["available_slots"], made["reserved"], made["last_seq"], made["reservations"]) == (0, 0, 0, [])
    assert api.get(answer.headers["Location"]).json() == made


def test_a_change_leaves_the_rest_and_the_counts_alone(api: Api) -> None:
    session = api.new_session(capacity=2)
    api.reserve(session)
    before = api.get(f"/api/sessions/{session}/").json()
    after = api.patch(f"/api/sessions/{session}/", json={"title": "Another title"}).json()
    assert after["title"] == "Another title"
    assert after["version"] > before["version"]
    assert {**after, "title": 0, "version": 0} == {**before, "title": 0, "version": 0}
    assert api.reserve(session).json()["seq"] == 2
    assert api.free(session) == 0


def test_a_session_cannot_end_before_it_starts_whichever_is_changed(api: Api) -> None:
    session = api.new_session()
    for changes in ({"start_time": "2032-01-01T00:00:00Z"}, {"end_time": "2030-01-01T00:00:00Z"}):
        answer = api.configure(session, **changes)
        assert (answer.status_code, answer.json()["code"]) == (409, "bad_times")
    both = api.configure(session, start_time="2032-01-02T00:00:00Z", end_time="2032-01-01T00:00:00Z")
    assert (both.status_code, both.json()["errors"][0]["field"]) == (422, "end_time")
    assert api.get(f"/api/sessions/{session}/").json()["start_time"] == "2031-05-01T16:00:00.000Z"


def test_settings_are_changed_in_their_turn_and_never_beside_descriptions(api: Api) -> None:
    session = api.new_session()
    queued = api.patch(f"/api/sessions/{session}/", json={"capacity": 9})
    assert (queued.status_code, queued.json()["kind"], queued.json()["seq"]) == (202, "configure", 1)
    assert api.job(queued.json()["id"], Prefer="wait=20")["outcome"] == "resized"
    moved = api.configure(session, start_time="2031-05-01T15:00:00Z", max_seats_per_reservation=2)
    assert (moved.status_code, moved.json()["outcome"]) == (200, "configured")
    shown = api.get(f"/api/sessions/{session}/").json()
    assert (shown["capacity"], shown["start_time"], shown["max_seats_per_reservation"], shown["last_seq"]) == (
        9,
        "2031-05-01T15:00:00.000Z",
        2,
        2,
    )
    mixed = api.patch(f"/api/sessions/{session}/", json={"title": "x", "capacity": 5})
    assert (mixed.status_code, mixed.json()["errors"][0]["field"]) == (422, "capacity")


def test_what_cannot_be_changed_is_named(api: Api) -> None:
    path = f"/api/sessions/{api.new_session()}/"
    for body, field in (
        ({"id": 7}, "id"),
        ({"reserved": 0}, "reserved"),
        ({}, ""),
        ({"on_shrink": "waitlist"}, ""),
        ({"capacity": -1}, "capacity"),
        ({"waitlist_policy": "lottery"}, "waitlist_policy"),
        ({"max_seats_per_reservation": 21}, "max_seats_per_reservation"),
        ({"opens_at": "2031-05-01T10:00:00"}, "opens_at"),
        ({"start_time": None}, "start_time"),
    ):
        answer = api.patch(path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), body


def test_an_unknown_session_cannot_be_changed(api: Api) -> None:
    answer = api.patch("/api/sessions/999999999/", json={"title": "x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
