"""Many after few: through gunicorn and a Celery worker, nobody gets a place that is not there."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from ops import verify
from tests.support.http import Api, person
from tests.support.stack import Stack


def test_of_32_connections_after_the_last_seat_one_gets_it(live_api: Stack) -> None:
    with Api(live_api.url) as api:
        session = api.new_session(capacity=1)

        def visit(_: int) -> str:
            with Api(live_api.url) as visitor:
                return visitor.reserve(session).json().get("code", "confirmed")

        with ThreadPoolExecutor(32) as threads:
            outcomes = Counter(threads.map(visit, range(32)))
        assert outcomes == {"confirmed": 1, "sold_out": 31}
        assert api.free(session) == 0
        held = api.get(f"/api/sessions/{session}/").json()["reservations"]
        assert len(held) == 1


def test_places_given_back_are_sold_again_and_never_twice(live_api: Stack) -> None:
    with Api(live_api.url) as api:
        session = api.new_session(capacity=5)

        def visit(_: int) -> int:
            who, kept = person(), 0
            with Api(live_api.url) as visitor:
                for _ in range(4):
                    if visitor.reserve(session, who).status_code == 201:
                        kept = 1
                        if visitor.cancel(session, who["email"]).status_code == 200:
                            kept = 0
                if visitor.reserve(session, who).status_code == 201:
                    kept = 1
            return kept

        with ThreadPoolExecutor(12) as threads:
            kept = sum(threads.map(visit, range(12)))
        shown = api.get(f"/api/sessions/{session}/").json()
        assert kept == shown["reserved"] == len(shown["reservations"]) <= 5
        assert shown["available_slots"] == 5 - kept
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []
