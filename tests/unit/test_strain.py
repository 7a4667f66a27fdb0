"""When a process lets in fewer than come: on a model of one that serves at a fixed rate, under a clock of its own."""

from __future__ import annotations

import random

import pytest

from core.strain import LEAST, MOST, PATIENCE_SECONDS, Strain

PER_SECOND = 2500.0  # what the process can serve
GROUP = 256
LOOK_SECONDS = 0.01
CONNECTIONS = 500
SEED = 7


class Process:
    """Serves what is under way in groups, first come, first served; while it does, its loop is late. Everybody who is let in or
    refused may come again at once, so there are never more under way than CONNECTIONS."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.strain = Strain(lambda: self.now)
        self.served = self.refused = 0
        self.waits: list[float] = []
        self._waiting: list[float] = []
        self._chance = random.Random(SEED)

    def come(self, count: int) -> None:
        """So many at once."""
        for _ in range(min(count, CONNECTIONS - len(self._waiting))):
            if self.strain.is_full(len(self._waiting)):
                self.refused += 1
            else:
                self._waiting.append(self.now)

    def run(self, seconds: float, rate: float = 0.0) -> None:
        """So long, with so many coming a second, at random."""
        end, due = self.now + seconds, 0.0
        while self.now < end:
            group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            is_behind, busy = bool(self._waiting), len(group) / PER_SECOND
            passed = max(LOOK_SECONDS, busy)
            self.now += passed
            self.served += len(group)
            self.waits += [self.now - came for came in group]
            due += rate * passed * self._chance.uniform(0.5, 1.5)
            self.come(int(due))
            due -= int(due)
            self.strain.look(passed - LOOK_SECONDS, is_behind, len(self._waiting), self.served)

    def stand_still(self, seconds: float) -> None:
        """Others have the processor."""
        self.now += seconds
        self.strain.look(seconds, False, len(self._waiting), self.served)


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_nobody_is_turned_away_while_the_process_keeps_up(process: Process, share: float) -> None:
    process.run(30, share * PER_SECOND)
    assert process.refused == 0
    assert process.served > 29 * share * PER_SECOND


def test_a_moment_without_the_processor_turns_nobody_away(process: Process) -> None:
    for _ in range(20):
        process.run(2, 0.5 * PER_SECOND)
        process.stand_still(0.15)
        process.come(int(0.15 * 0.5 * PER_SECOND))
    assert process.refused == 0


def test_bursts_of_some_hundred_turn_nobody_away(process: Process) -> None:
    for _ in range(20):
        process.come(CONNECTIONS)
        process.run(1)
    assert (process.refused, process.served) == (0, 20 * CONNECTIONS)


def test_three_times_as_many_as_can_be_served_wait_briefly_or_are_told_at_once(process: Process) -> None:
    process.run(2, 3 * PER_SECOND)
    process.refused = process.served = 0
    process.waits.clear()
    process.run(10, 3 * PER_SECOND)
    assert process.served > 0.9 * 10 * PER_SECOND
    assert process.refused > 0.9 * 20 * PER_SECOND
    assert max(process.waits) < 0.2
    assert process.strain.has_limit


def test_when_fewer_come_again_nobody_is_turned_away_any_more(process: Process) -> None:
    process.run(5, 3 * PER_SECOND)
    process.run(2, 0.5 * PER_SECOND)
    process.refused = 0
    process.run(10, 0.5 * PER_SECOND)
    assert process.refused == 0
    assert not process.strain.has_limit
    process.come(CONNECTIONS)
    assert process.refused == 0


def test_who_is_let_in_gets_through_however_slow_the_process_is(process: Process) -> None:
    for _ in range(100):
        process.now += 0.1
        process.strain.look(0.1, True, MOST, 0)
    assert not process.strain.is_full(LEAST - 1)
    assert process.strain.is_full(LEAST)


def test_a_process_that_waits_for_a_slow_disk_lets_in_whom_it_likes(process: Process) -> None:
    """Each call takes 0.15 s, and takes all that wait: with fewer it would take as long."""
    for number in range(1000):
        process.now += LOOK_SECONDS
        process.strain.look(0.001, False, 200, 200 * (number // 15))
    assert not process.strain.has_limit


def test_after_a_pause_nothing_of_before_counts(process: Process) -> None:
    process.run(PATIENCE_SECONDS - 0.1, 3 * PER_SECOND)
    process.now += 10
    process.strain.look(0.0, False, 0, process.served)
    process.come(CONNECTIONS)
    process.run(PATIENCE_SECONDS - 0.1, 3 * PER_SECOND)
    assert process.refused == 0
