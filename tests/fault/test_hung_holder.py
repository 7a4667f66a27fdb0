"""A worker stopped while it holds a partition: others take over, and when it wakes up it can change nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.support.driving import Driver
from tests.support.processes import ROOT, python_program
from tests.support.waiting import until

TAKEN_OVER_SECONDS = 5
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


def stopped_at(driver: Driver, partition: int, point: str) -> subprocess.Popen[bytes]:
    """A process that drains the partition and stops itself at `point`."""
    program = python_program("drain", driver.deployment.environment, "-c", STOP_ITSELF_AT, str(partition), point)
    process = subprocess.Popen([sys.executable, *program.command[1:]], env=program.environment, cwd=ROOT)
    until(lambda: state_of(process.pid) == "T", 20, "it has stopped itself")
    return process


def state_of(pid: int) -> str:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False)
    return shown.stdout.strip()[:1]


@pytest.mark.parametrize("point", ["after_read", "before_commit"])
def test_a_partition_moves_on_and_the_late_commit_fails(driver: Driver, point: str) -> None:
    session = driver.new_session(capacity=2)
    receipts = driver.reserve(session, "ana", "bo")
    process = stopped_at(driver, driver.partition(session), point)
    started = time.monotonic()
    try:
        until(lambda: drained(driver, session), TAKEN_OVER_SECONDS, "another worker gets the partition")
        assert time.monotonic() - started < TAKEN_OVER_SECONDS
        receipts += driver.cancel(session, "ana")
        receipts += driver.reserve(session, "cy")
        driver.drain_all()
    finally:
        process.send_signal(signal.SIGCONT)
        status = process.wait(20)
    assert status == 7  # it found out that its transaction was gone
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed", "cancelled", "confirmed"]
    assert driver.counts(session) == (2, 4)
    driver.check(receipts)


def test_a_publication_that_comes_late_takes_nothing_back(driver: Driver) -> None:
    session = driver.new_session(capacity=2)
    receipts = driver.reserve(session, "ana", "bo")
    process = stopped_at(driver, driver.partition(session), "after_commit")
    try:
        receipts += driver.cancel(session, "ana")
        driver.drain_all()
        assert driver.counts(session) == (1, 3)
    finally:
        process.send_signal(signal.SIGCONT)
        assert process.wait(20) == 0
    assert driver.counts(session) == (1, 3)
    assert driver.outcomes(receipts) == ["confirmed", "confirmed", "cancelled"]
    driver.check(receipts)


def drained(driver: Driver, session: int) -> bool:
    driver.drain_all()
    return driver.waiting(session) == 0
