"""A worker stopped while it holds a partition: others take over, and when it wakes up it can change nothing."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.driving import Driver, state_of
from tests.support.processes import ROOT, python_program
from tests.support.waiting import until

TAKEN_OVER_SECONDS = 15  # five, and three times as many on a busy machine
STOP_ITSELF_AT = """
import os, signal, sys
from core import crashpoints
from core.bootstrap import prepare, worker_services
from core.errors import Unavailable
services = worker_services(prepare("worker"))
crashpoints.arm(sys.argv[2], lambda: os.kill(os.getpid(), signal.SIGSTOP))
try:
    services.drain(int(sys.argv[1]))
except Unavailable:
    sys.exit(7)
"""


@contextmanager
def stopped_at(driver: Driver, session: int, point: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that drains the session's partition and stops itself at `point`; at the end it is let go on, and ends."""
    arguments = ("-c", STOP_ITSELF_AT, str(driver.partition(session)), point)
    program = python_program("drain", driver.deployment.environment, *arguments)
    process = subprocess.Popen(program.command, env=program.environment, cwd=ROOT)
    try:
        until(lambda: state_of(process.pid) == "T", 20, "it has stopped itself")
        yield process
        process.send_signal(signal.SIGCONT)
        process.wait(20)
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("point", ["after_read", "before_commit"])
def test_a_partition_moves_on_and_the_late_commit_fails(driver: Driver, point: str) -> None:
    session = driver.new_session(capacity=2)
    receipts = driver.reserve(session, "ana", "bo")
    with stopped_at(driver, session, point) as process:
        until(lambda: taken_over(driver, session), TAKEN_OVER_SECONDS, "another worker gets the partition")
        receipts += driver.cancel(session, "ana")
        receipts += driver.reserve(session, "cy")
        driver.drain_all()
        before = driver.counts(session)
    assert process.returncode == 7  # it found out that its transaction was gone
    assert driver.counts(session) == before == (2, 4)
    assert driver.outcomes(receipts) == ["confirmed", "confirmed", "cancelled", "confirmed"]
    assert driver.check(receipts).quarantined == 0


@pytest.mark.parametrize("point", ["after_commit", "between_publishes"])
def test_a_publication_that_comes_late_takes_nothing_back(driver: Driver, point: str) -> None:
    session = driver.new_session(capacity=300)
    receipts = driver.reserve(session, *(f"guest{n}" for n in range(300)))
    with stopped_at(driver, session, point) as process:
        receipts += driver.cancel(session, "guest0", "guest299")
        driver.drain_all()
        job_ids = [receipt.job.id for receipt in receipts]
        before = driver.jobs(job_ids)
        assert driver.counts(session) == (298, 302)
    assert process.returncode == 0
    assert driver.counts(session) == (298, 302)
    assert driver.jobs(job_ids) == before
    assert driver.outcomes(receipts) == ["confirmed"] * 300 + ["cancelled"] * 2
    driver.check(receipts)


def taken_over(driver: Driver, session: int) -> bool:
    driver.drain_all()
    return driver.waiting(session) == 0
