"""A worker that is killed exactly there, then a good drain: every command is applied once and shows its outcome."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from core.crashpoints import POINTS
from ops import verify
from tests.support.driving import KILLED, TAKE_TURNS, Driver, start_drain
from tests.support.http import Api, person
from tests.support.stack import Stack

# What a worker passes in any batch: `accepted` is the API's, and only large batches are published in parts; both below.
WORKER_POINTS = [point for point in POINTS[1 : POINTS.index("after_publish") + 1] if point != "between_publishes"]


# What was committed is published in parts when it is large; what was not is applied one by one after a death, so fewer will do.
SIZES = [(point, size) for point in WORKER_POINTS for size in (2, 300 if point in ("after_commit", "after_publish") else 40)]


@pytest.mark.parametrize(("point", "size"), SIZES)
def test_a_batch_survives_its_worker(driver: Driver, point: str, size: int) -> None:
    session = driver.new_session(capacity=30)
    receipts = driver.reserve(session, *(f"guest{n}" for n in range(size)))
    assert driver.drain_in_a_process(driver.partition(session), point) == KILLED
    driver.drain_all()
    receipts += driver.cancel(session, "guest0")
    receipts += driver.reserve(session, "late")
    driver.drain_all()
    driver.check(receipts)
    assert driver.counts(session) == (min(size, 30), size + 2)


@pytest.mark.parametrize("nth", [2, 3])
def test_what_is_taken_ahead_survives_its_worker(driver: Driver, nth: int) -> None:
    session = driver.new_session(capacity=10, waitlist_capacity=100)
    receipts = []
    for round_, point in enumerate(point for point in WORKER_POINTS if point != "deciding"):
        receipts += driver.reserve(session, *(f"guest{round_}-{n}" for n in range(7)))
        receipts += driver.cancel(session, f"guest0-{round_}")  # whose place goes to somebody who waits
        at = f"{point}#{nth}"  # three commands in a batch: behind the first is a second, behind that a third
        start = start_drain(driver.deployment, driver.partition(session), at, TAKE_TURNS, AFORO_BATCH_SIZE="3")
        assert start.wait(30) == KILLED
        driver.drain_all()
        assert driver.check(receipts).quarantined == 0
    assert driver.counts(session) == (10, len(receipts))


@pytest.mark.parametrize("nth", [1, 2])
def test_a_batch_that_is_published_in_parts_survives_between_them(driver: Driver, nth: int) -> None:
    session = driver.new_session(capacity=500)
    receipts = driver.reserve(session, *(f"guest{n}" for n in range(600)))
    assert driver.drain_in_a_process(driver.partition(session), f"between_publishes#{nth}") == KILLED
    assert driver.waiting(session) == 600 - 256 * nth
    driver.drain_all()
    driver.check(receipts)
    assert driver.counts(session) == (500, 600)


def test_crash_after_crash_loses_nothing(driver: Driver) -> None:
    session = driver.new_session(capacity=5)
    receipts = []
    points = [point for point in WORKER_POINTS if point != "deciding"]  # one more death over its first name is too many
    for round_, point in enumerate(points):
        receipts += driver.reserve(session, f"guest{round_}", f"friend{round_}")
        assert driver.drain_in_a_process(driver.partition(session), point) == KILLED
    driver.drain_all()
    report = driver.check(receipts)
    assert (driver.counts(session)[0], report.quarantined) == (5, 0)


def test_what_was_committed_before_the_crash_is_not_applied_again(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana")
    assert driver.drain_in_a_process(driver.partition(session), "after_commit") == KILLED
    ledger = driver.queries.job(receipts[0].job.id)
    assert ledger is not None
    assert (ledger.outcome, driver.job(receipts[0].job.id).outcome) == ("confirmed", None)  # type: ignore[union-attr]
    driver.drain_all()
    assert driver.job(receipts[0].job.id) == ledger
    driver.check(receipts)


def test_an_api_killed_between_acceptance_and_bell_loses_nothing(stacks: Callable[..., Stack]) -> None:
    stack = stacks(crash_at="accepted")  # every process of the API dies over the first command it would ring for
    with Api(stack.url) as api:
        session = api.new_session(capacity=2)
        for number in range(1, 4):
            who, key = person(), f"survives-{number}"
            with pytest.raises(httpx.TransportError):
                api.reserve(session, who, wait=None, Idempotency_Key=key)
            again = api.reserve(session, who, Idempotency_Key=key)
            assert again.headers["Idempotency-Replayed"] == "true"
            assert (again.status_code, job_of(again)["seq"]) == (201 if number <= 2 else 409, number)
        assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == 3
    assert verify.run(stack.database_url, stack.redis_url).differences == []


def job_of(answer: httpx.Response) -> dict[str, int]:
    """The job in an answer: itself, or beside the refusal."""
    return answer.json().get("job", answer.json())
