"""Many after few: through gunicorn and a Celery worker, nobody gets a place that is not there."""

from __future__ import annotations

from collections import Counter
from functools import partial

import httpx

from ops import verify
from tests.support.driving import together
from tests.support.http import Api, person
from tests.support.stack import Stack


def test_of_32_connections_after_the_last_seat_one_gets_it(live_api: Stack) -> None:
    with Api(live_api.url) as api:
        session = api.new_session(capacity=1)

        def visit() -> str:
            with Api(live_api.url) as visitor:
                return outcome(visitor.reserve(session))

        assert Counter(together(*[visit] * 32)) == {"confirmed": 1, "sold_out": 31}
        shown = api.get(f"/api/sessions/{session}/").json()
        assert (shown["available_slots"], shown["last_seq"], len(shown["reservations"])) == (0, 32, 1)
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []


def test_places_given_back_are_sold_again_and_never_twice(live_api: Stack) -> None:
    with Api(live_api.url) as api:
        session = api.new_session(capacity=10)

        def visit(gives_back: bool) -> str:
            who = person()
            with Api(live_api.url) as visitor:
                first = outcome(visitor.reserve(session, who))
                if first == "confirmed" and not gives_back:
                    return first
                if first == "confirmed":
                    assert visitor.cancel(session, who["email"]).status_code == 200
                return outcome(visitor.reserve(session, who))

        outcomes = Counter(together(*[partial(visit, number % 2 == 0) for number in range(64)]))
        # Whoever gives a place back asks again afterwards, so in the end no place is left over.
        assert outcomes == {"confirmed": 10, "sold_out": 54}
        shown = api.get(f"/api/sessions/{session}/").json()
        assert (shown["available_slots"], len(shown["reservations"])) == (0, 10)
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []


def outcome(answer: httpx.Response) -> str:
    """What became of a reservation that was waited for."""
    assert answer.status_code in (201, 409), answer.text
    return "confirmed" if answer.status_code == 201 else answer.json()["code"]
