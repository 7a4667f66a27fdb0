"""The sweeper's process: what kills the child that works does not kill the sweeper, and nothing is left of it when it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.driving import Driver, state_of
from tests.support.processes import Running, children_of, sweeper_program
from tests.support.waiting import until

GONE_SECONDS = 20


@pytest.fixture
def sweeper(driver: Driver, tmp_path: Path) -> Iterator[Running]:
    running = Running(sweeper_program(driver.deployment.environment), tmp_path)
    yield running
    running.kill()


def child_of(sweeper: Running, after: int = 0) -> int:
    """The child that works, once it is another one than `after`."""
    found = until(lambda: [pid for pid in children_of(sweeper.pid) if pid != after], 30, "somebody sweeps")
    return found[0]


def is_gone(pid: int) -> bool:
    return state_of(pid) in ("", "Z")


def test_a_killed_child_has_another_after_it_that_sweeps(driver: Driver, sweeper: Running) -> None:
    session = driver.new_session()
    first = child_of(sweeper)
    os.kill(first, signal.SIGKILL)
    second = child_of(sweeper, after=first)
    assert sweeper.process.poll() is None
    receipts = driver.reserve(session, "ana", "bo")
    until(lambda: not driver.waiting(session), 30, "the other one sweeps")
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    assert child_of(sweeper) == second
    assert "sweeper_killed" in sweeper.output()


def test_a_command_that_kills_its_workers_does_not_end_the_sweeper(driver: Driver, tmp_path: Path) -> None:
    program = sweeper_program({**driver.deployment.environment, "AFORO_CRASH_AT": "deciding=bad@example.org"})
    running = Running(program, tmp_path)
    try:
        session = driver.new_session()
        receipts = driver.reserve(session, "ana", "bad", "bo")
        until(lambda: not driver.waiting(session), 60, "all have their outcome")
        assert driver.outcomes(receipts) == ["confirmed", "quarantined", "confirmed"]
        assert running.output().count("sweeper_killed") == 4  # once over the batch, three times over the name
        assert running.process.poll() is None
        assert running.stop() == 0
    finally:
        running.kill()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_is_asked_to_and_its_child_with_it(sweeper: Running, name: signal.Signals) -> None:
    child = child_of(sweeper)
    sweeper.send(name)
    assert sweeper.process.wait(GONE_SECONDS) == 0
    assert is_gone(child)


def test_a_child_whose_parent_was_killed_ends_by_itself(sweeper: Running) -> None:
    child = child_of(sweeper)
    os.kill(sweeper.pid, signal.SIGKILL)
    sweeper.process.wait(GONE_SECONDS)
    until(lambda: is_gone(child), GONE_SECONDS, "the child has noticed")


def test_settings_that_cannot_be_used_end_it(driver: Driver, tmp_path: Path) -> None:
    running = Running(sweeper_program({**driver.deployment.environment, "AFORO_PARTITIONS": "8"}), tmp_path)
    assert running.process.wait(30) == 1
    assert "sweeper_cannot_run" in running.output()
