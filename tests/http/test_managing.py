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
    path = f"/api/sessions/{api.new_session()}/"
    for changes in (
        {"start_time": "2032-01-01T00:00:00Z"},
        {"end_time": "2030-01-01T00:00:00Z"},
        {"start_time": "2032-01-02T00:00:00Z", "end_time": "2032-01-01T00:00:00Z"},
    ):
        answer = api.patch(path, json=changes)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] in changes
    assert api.get(path).json()["start_time"] == "2031-05-01T16:00:00.000Z"


def test_what_cannot_be_changed_here_is_named(api: Api) -> None:
    path = f"/api/sessions/{api.new_session()}/"
    for body, field in (({"capacity": 5}, "capacity"), ({"id": 7}, "id"), ({"reserved": 0}, "reserved"), ({}, "")):
        answer = api.patch(path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_an_unknown_session_cannot_be_changed(api: Api) -> None:
    answer = api.patch("/api/sessions/999999999/", json={"title": "x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
