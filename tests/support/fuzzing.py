"""Many hostile requests at a running API, one after the other, each followed by somebody else's."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.support.answers import exchange, faults_of, is_healthy
from tests.support.hostile import Request, requests

# Nobody waits long for the rest of what broke off.
IMPATIENT = {"head_seconds": "0.5", "body_seconds": "0.5", "idle_seconds": "1"}
ALARMING = ("Traceback", "unhandled_exception", "internal_error")
TRACEBACK_LINES = 60


def alarms_in(log: str) -> str:
    """The first thing in an API's log that says of a bug, with what follows it; '' if there is none."""
    lines = log.splitlines()
    first = next((number for number, line in enumerate(lines) if any(word in line for word in ALARMING)), None)
    return "" if first is None else "\n".join(lines[first : first + TRACEBACK_LINES])


def fuzz(url: str, session: int, keys: tuple[str, ...], examples: int, chance: int) -> Counter[int]:
    """Send so many; `session` is there, and the first of the keys opens everything. How often each status was answered.

    Raises AssertionError for the first answer that is wrong, with the smallest request that was found to lead to one.
    """
    statuses: Counter[int] = Counter()

    @seed(chance)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(session, keys))
    def send(request: Request) -> None:
        answers = exchange(url, request)
        statuses.update(answer.status for answer in answers)
        assert faults_of(request, answers) == [], request.sent
        assert is_healthy(url), request.sent

    send()
    return statuses
