"""A worker that is killed exactly there, then a good drain: every command is applied once and shows its outcome."""

from __future__ import annotations

import pytest

from core.crashpoints import POINTS
from tests.support.driving import KILLED, Driver

# What a worker passes in any batch; `deciding` is test_unreadable.py's, `accepted` is the API's and below.
WORKER_POINTS = [point for point in POINTS if point not in ("accepted", "deciding", "between_publishes")]


@pytest.mark.parametrize("point", WORKER_POINTS)
@pytest.mark.parametrize("size", [1, 40])
def test_a_batch_survives_its_worker(driver: Driver, point: str, size: int) -> None:
    session = driver.new_session(capacity=30)
    receipts = driver.reserve(session, *(f"guest{n}" for n in range(size)))
    assert driver.drain_in_a_process(driver.partition(session), point) == KILLED
    assert driver.drain_in_a_process(driver.partition(session)) == 0
    receipts += driver.cancel(session, "guest0")
    receipts += driver.reserve(session, "late")
    driver.drain_all()
    driver.check(receipts)
    assert driver.counts(session) == (min(size, 30), size + 2)


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
    for round_, point in enumerate(WORKER_POINTS):
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
