"""When the door slows down, and when it turns away: a backlog that is being worked off, and one that nobody touches."""

from __future__ import annotations

import itertools

import pytest

from core.pressure import CROWD_SECONDS, FRESH_SECONDS, GROUP, PAUSE_SECONDS_MAX, Pressure

ENOUGH = 4000
LARGE_GROUP = 256
A_CROWD = 20_000


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pressure(clock: Clock) -> Pressure:
    return Pressure(ENOUGH, LARGE_GROUP, clock)


def work_off(pressure: Pressure, clock: Clock, *depths: int) -> None:
    """A call for each partition, a batch that is taken out, and another call for each."""
    for number in range(2):
        for partition, depth in enumerate(depths):
            pressure.note(partition, depth, b"%d" % number)
        clock.now += 0.01


def test_the_door_is_slow_the_slower_the_more_waits(pressure: Pressure, clock: Clock) -> None:
    pauses = []
    for depth in (ENOUGH - 1, ENOUGH + 1, 2 * ENOUGH, 3 * ENOUGH, 30 * ENOUGH):
        work_off(pressure, clock, depth)
        pauses.append(pressure.pause_seconds())
    assert pauses[0] == 0
    assert all(one < other for one, other in itertools.pairwise(pauses[:4]))
    assert pauses[3:] == [PAUSE_SECONDS_MAX] * 2


def test_what_waits_in_all_mailboxes_counts_together(pressure: Pressure, clock: Clock) -> None:
    work_off(pressure, clock, ENOUGH - 1, 10)
    assert pressure.pause_seconds() > 0


def test_a_backlog_that_nobody_works_off_slows_nothing(pressure: Pressure, clock: Clock) -> None:
    for depth in range(ENOUGH, 30 * ENOUGH, 1000):
        pressure.note(0, depth, b"7.5")
        clock.now += 0.01
        assert pressure.pause_seconds() == 0


def test_workers_that_stopped_are_not_waited_for(pressure: Pressure, clock: Clock) -> None:
    work_off(pressure, clock, 2 * ENOUGH)
    assert pressure.pause_seconds() > 0
    clock.now += FRESH_SECONDS
    pressure.note(0, 3 * ENOUGH, b"1")
    assert pressure.pause_seconds() == 0


def test_what_was_said_long_ago_is_forgotten(pressure: Pressure, clock: Clock) -> None:
    work_off(pressure, clock, 0, 3 * ENOUGH)
    clock.now += FRESH_SECONDS
    work_off(pressure, clock, 100)
    assert pressure.pause_seconds() == 0


def crowd(pressure: Pressure) -> int:
    """How many make a crowd."""
    return next(waiting for waiting in range(A_CROWD) if pressure.is_crowd(waiting))


def test_a_group_may_always_wait_and_more_only_as_long_as_the_door_is_quick(pressure: Pressure, clock: Clock) -> None:
    crowds = []
    for depth in (ENOUGH + 1, 2 * ENOUGH, 30 * ENOUGH):
        work_off(pressure, clock, depth)
        assert not pressure.is_crowd(GROUP - 1)
        crowds.append(crowd(pressure))
    assert crowds == sorted(crowds, reverse=True)
    assert GROUP < crowds[-1] < crowds[0]


def test_where_calls_take_long_fewer_may_wait_also_without_a_backlog(pressure: Pressure) -> None:
    quick = crowd(pressure)
    assert quick > 10 * LARGE_GROUP
    for _ in range(20):
        pressure.took(CROWD_SECONDS / 4)
    assert 4 * LARGE_GROUP <= crowd(pressure) < 5 * LARGE_GROUP < quick
    for _ in range(20):
        pressure.took(10 * CROWD_SECONDS)
    assert crowd(pressure) == LARGE_GROUP
