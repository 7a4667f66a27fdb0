"""Finding sessions: words, times, order, cursors; and not sending again what the reader has."""

from __future__ import annotations

import itertools

import pytest

from core.finding import SessionSearch
from core.queries import Queries
from core.store import create_engine
from tests.support.http import Api
from tests.support.stack import Deployment

_words = itertools.count(1)


@pytest.fixture
def word() -> str:
    """A word that only this test's sessions have."""
    return f"quetzalcoatlus{next(_words):04}"


def found(api: Api, **parameters: str) -> list[int]:
    answer = api.get("/api/sessions/", params={"page_size": "100", **parameters})
    assert answer.status_code == 200, answer.text
    return [session["id"] for session in answer.json()["results"]]


def test_words_are_found_in_all_texts_from_their_beginning_and_all_must_be_there(api: Api, word: str) -> None:
    title = api.new_session(title=f"The {word.upper()} lecture")
    place = api.new_session(title="Drawing", location=f"Hall of the {word}")
    about = api.new_session(title="Drawing", description=f"With {word}es, for children.")
    assert set(found(api, q=word)) == {title, place, about}
    assert found(api, q=f"lect {word[:6]}") == [title]
    assert found(api, q=f"{word} nothing") == []
    for harmless in ("'", "a & b | !c", "\\", "<->", ":*", "%", "()", "'; DROP TABLE sessions; --", "\U0001f3ab", "a" * 200):
        assert api.get("/api/sessions/", params={"q": harmless}).status_code == 200
    assert api.get("/api/sessions/", params={"q": "x" * 201}).status_code == 422


def test_times_bound_the_list(api: Api, word: str) -> None:
    ids = [
        api.new_session(title=f"{word}-times", start_time=f"2050-01-0{n}T10:00:00Z", end_time="2050-02-01T00:00:00Z")
        for n in (1, 2, 3)
    ]
    query = f"{word} times"
    assert found(api, q=query, starts_after="2050-01-02T10:00:00Z") == ids[1:]
    assert found(api, q=query, starts_before="2050-01-02T10:00:00Z") == ids[:1]
    assert found(api, q=query, starts_after="2050-01-01T12:00:00+01:00", starts_before="2050-01-03T10:00:00Z") == [ids[1]]
    for wrong in ("tomorrow", "2050-01-01", "2050-01-01T10:00:00"):
        answer = api.get("/api/sessions/", params={"starts_after": wrong})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "starts_after")


@pytest.mark.parametrize("ordering", ["start_time", "-start_time", "id", "-id"])
def test_a_list_read_by_cursor_is_in_order_and_complete_while_others_come(api: Api, word: str, ordering: str) -> None:
    mark = f"{word}{ordering.strip('-')}{len(ordering)}"
    times = [f"2045-01-0{n}T10:00:00Z" for n in (3, 1, 2, 1, 5, 4)]
    ids = [api.new_session(title=mark, start_time=start, end_time="2045-02-01T00:00:00Z") for start in times]
    expected = sorted(
        ids, key=lambda one: (times[ids.index(one)] if "start" in ordering else "", one), reverse=ordering[0] == "-"
    )
    path, seen = f"/api/sessions/?cursor=&q={mark}&ordering={ordering}&page_size=2", []
    while path:
        page = api.get(path).json()
        seen += [session["id"] for session in page["results"]]
        path = page["next"]
        if len(seen) == 2:  # one comes in before what was read: nothing is repeated or left out
            api.new_session(
                title=mark,
                start_time="2044-01-01T10:00:00Z" if ordering[0] != "-" else "2046-01-01T10:00:00Z",
                end_time="2047-01-01T00:00:00Z",
            )
    assert [one for one in seen if one in ids] == expected
    forged = api.get("/api/sessions/?cursor=WyJ4IiwxLDFd")
    assert (forged.status_code, forged.json()["errors"][0]["field"]) == (422, "cursor")


def test_who_has_the_newest_gets_304_and_who_has_not_gets_it(api: Api) -> None:
    session = api.new_session()
    for path in (
        f"/api/sessions/{session}/",
        f"/api/sessions/{session}/reservations/",
        "/api/sessions/?ordering=-id&page_size=1",
    ):
        first = api.get(path)
        tag = {"If-None-Match": first.headers["ETag"]}
        again = api.get(path, headers=tag)
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        assert api.reserve(session).status_code in (201, 409)
        assert api.get(path, headers=tag).status_code == 200


MANY_SESSIONS = """
INSERT INTO sessions (title, start_time, end_time, capacity)
SELECT 'Session ' || n || CASE WHEN n %% 5000 = 0 THEN ' rare' ELSE '' END,
  now() + n * interval '1 minute' - interval '40 days', now() + n * interval '1 minute' - interval '39 days', 10
FROM generate_series(1, %s) n"""


def test_lists_of_a_hundred_thousand_sessions_use_their_indexes(deployment: Deployment) -> None:
    deployment.sql(MANY_SESSIONS, 100_000)
    deployment.sql("ANALYZE sessions")
    engine = create_engine(deployment.settings().database_url, 1)
    try:
        queries = Queries(engine)
        searches = {
            SessionSearch(): "Index",
            SessionSearch(ordering="-start_time"): "sessions_by_start",
            SessionSearch(ordering="-id", open_only=False): "sessions_pkey",
            SessionSearch(words=("rare",)): "sessions_by_words",
        }
        for search, index in searches.items():
            plan = queries.plan(search, 20)
            assert index in plan, plan
            assert "Seq Scan on sessions" not in plan, plan
        assert queries.sessions(SessionSearch(words=("rare",), open_only=False), 100)[0] == 20
        for is_open in (True, False):
            plan = queries.counting_plan(SessionSearch(open_only=is_open))
            assert "session_totals" in plan, plan
            assert "Seq Scan on sessions" not in plan, plan
            assert is_open == ("sessions_bookable_until" in plan), plan
    finally:
        engine.dispose()


TAKE_A_PLACE = "UPDATE sessions SET reserved = reserved + 1, version = version + 1"
UPDATED_IN_PLACE = "SELECT pg_stat_get_xact_tuples_hot_updated('sessions'::regclass)"


def test_only_the_last_place_takes_a_session_out_of_the_index_of_those_that_can_be_booked(deployment: Deployment) -> None:
    deployment.sql("INSERT INTO sessions (title, start_time, end_time, capacity) VALUES ('', now(), now() + interval '1 day', 3)")
    told = [deployment.sql(f"{TAKE_A_PLACE}; {UPDATED_IN_PLACE}")[0][0] for _ in range(3)]
    assert told == [1, 1, 0]
    engine = create_engine(deployment.settings().database_url, 1)
    try:
        counted = [Queries(engine).sessions(SessionSearch(open_only=is_open), 10)[0] for is_open in (False, True)]
    finally:
        engine.dispose()
    assert counted == [1, 0]
