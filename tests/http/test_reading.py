"""Lists, details, counts: complete, in order, never stale after an outcome, never backwards."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from core.model import partition_of_session
from tests.support.heads import head_in
from tests.support.http import Api, person
from tests.support.stack import Stack


def walk(api: Api, path: str | None) -> list[dict[str, Any]]:
    """All results from this page on."""
    found: list[dict[str, Any]] = []
    while path:
        page = api.get(path)
        assert page.status_code == 200, page.text
        found += page.json()["results"]
        path = page.json()["next"]
    return found


def listed(api: Api, **parameters: str) -> list[int]:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return [session["id"] for session in walk(api, f"/api/sessions/?page_size=100&{query}")]


def test_the_list_shows_what_can_be_booked_and_all_on_demand(api: Api) -> None:
    free = api.new_session()
    full = api.new_session(capacity=1)
    over = api.new_session(start_time="2020-01-01T10:00:00Z", end_time="2020-01-01T12:00:00Z")
    assert api.reserve(full).status_code == 201
    shown, everything = listed(api), listed(api, available="all")
    assert free in shown
    assert not {full, over} & set(shown)
    assert {free, full, over} <= set(everything)


def test_pages_hold_everything_once_by_start_time(api: Api) -> None:
    ids = [api.new_session(start_time=f"2040-01-0{9 - n}T10:00:00Z", end_time="2040-02-01T12:00:00Z") for n in range(7)]
    everything = walk(api, "/api/sessions/?page_size=3&available=all")
    assert len({session["id"] for session in everything}) == len(everything)
    assert everything == sorted(everything, key=lambda session: (session["start_time"], session["id"]))
    assert [session["id"] for session in everything if session["id"] in ids] == ids[::-1]
    first = api.get("/api/sessions/?page_size=3&available=all").json()
    second = api.get(first["next"]).json()
    assert (first["count"], first["previous"]) == (len(everything), None)
    assert second["previous"] == "/api/sessions/?page=1&page_size=3&available=all"


def test_a_page_beyond_the_last_is_empty(api: Api) -> None:
    page = api.get("/api/sessions/?page=900000").json()
    assert (page["results"], page["next"]) == ([], None)


def test_a_session_shows_a_hundred_reservations_and_leads_to_the_others(api: Api) -> None:
    session = api.new_session(capacity=130)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: api.reserve(session), range(130)))
    shown = api.get(f"/api/sessions/{session}/").json()
    assert (len(shown["reservations"]), shown["reserved"], shown["available_slots"]) == (100, 130, 0)
    rest = walk(api, shown["reservations_next"])
    seqs = [one["seq"] for one in [*shown["reservations"], *rest]]
    assert seqs == list(range(1, 131))
    assert walk(api, f"/api/sessions/{session}/reservations/?page_size=7") == [*shown["reservations"], *rest]


def test_cancelled_reservations_are_shown_on_demand(api: Api) -> None:
    session, ana = api.new_session(), person()
    api.reserve(session, ana)
    api.cancel(session, ana["email"])
    assert walk(api, f"/api/sessions/{session}/reservations/") == []
    (gone,) = walk(api, f"/api/sessions/{session}/reservations/?status=all")
    assert (gone["status"], gone["email"], gone["cancelled_at"] is not None) == ("cancelled", ana["email"], True)


def test_reservations_by_cursor_are_complete_while_others_come(api: Api, live_api: Stack) -> None:
    session = api.new_session(capacity=300)
    for _ in range(20):
        api.reserve(session)
    over = threading.Event()

    def come() -> None:
        with Api(live_api.url) as visitor:
            while not over.is_set():
                visitor.reserve(session)

    coming = threading.Thread(target=come)
    coming.start()
    try:
        for _ in range(5):
            seqs = [one["seq"] for one in walk(api, f"/api/sessions/{session}/reservations/?page_size=3")]
            assert seqs == list(range(1, len(seqs) + 1))
            assert len(seqs) >= 20
    finally:
        over.set()
        coming.join()


def test_who_saw_an_outcome_sees_its_effect_everywhere(api: Api, live_api: Stack) -> None:
    session = api.new_session(capacity=1)
    failures: list[str] = []

    def visit(_: int) -> None:
        ana = person()
        with Api(live_api.url) as visitor:  # a new connection each time: any process may answer
            if visitor.reserve(session, ana).status_code != 201:
                return
            detail = visitor.get(f"/api/sessions/{session}/").json()
            if [one["email"] for one in detail["reservations"]] != [ana["email"]] or detail["available_slots"] != 0:
                failures.append(f"reserved, but {detail}")
            if session in listed(visitor):
                failures.append("full, but listed")
            visitor.cancel(session, ana["email"])
            detail = visitor.get(f"/api/sessions/{session}/reservations/").json()
            if ana["email"] in [one["email"] for one in detail["results"]]:
                failures.append("cancelled, but listed")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(visit, range(60)))
    assert failures == []


def test_versions_never_go_back_for_a_reader(api: Api, live_api: Stack) -> None:
    session = api.new_session(capacity=1000)
    over = threading.Event()
    seen: list[tuple[int, int]] = []

    def read() -> None:
        with Api(live_api.url) as reader:
            while not over.is_set():
                shown = reader.get(f"/api/sessions/{session}/").json()
                seen.append((shown["version"], shown["last_seq"]))

    reading = threading.Thread(target=read)
    reading.start()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: api.reserve(session, wait=None), range(300)))
    last = api.reserve(session).json()
    over.set()
    reading.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1
    assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == last["seq"]


def test_counts_are_rebuilt_when_redis_lost_them(api: Api, live_api: Stack) -> None:
    session = api.new_session(capacity=3)
    api.reserve(session)
    head = f"aforo:{{{partition_of_session(session, 16)}}}:s:{session}"
    redis = live_api.deployment.redis()
    assert redis.delete(head) == 1
    assert api.free(session) == 2
    assert head_in(redis, head)["r"] == "1"
    assert api.reserve(session).json()["seq"] == 2


def test_a_session_that_is_not_there_is_404(api: Api) -> None:
    for path in ("", "reservations/"):
        answer = api.get(f"/api/sessions/999999999/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
