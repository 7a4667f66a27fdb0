"""A worker's rounds, with mailboxes and a clock that are the test's: when it takes what, whose bells it keeps, when it goes."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence

import pytest

from core.lookout import Sight
from core.rounds import AROUND, ENOUGH, FLOWING, LINGER_MOST_SECONDS, STINT_SECONDS, Rounds

BATCH = 1000
BATCH_SECONDS = 0.003
COMMAND_SECONDS = 0.00002


class Lanes:
    """Mailboxes that fill as time goes by, a drain, a lookout and a doorbell."""

    def __init__(self, partitions: int = 4) -> None:
        self.now = 100.0
        self.comes: dict[int, list[float]] = defaultdict(list)  # when, in order
        self.taken: set[int] = set()
        self.batches: list[tuple[int, int]] = []
        self.waits: list[float] = []
        self.bells: set[int] = set()
        self.rung: list[int] = []
        self.looks = 0
        self.slept = 0.0
        self.rounds = Rounds(self, self, partitions, self.rung.append, lambda: self.now, self.sleep)

    def send(self, partition: int, count: int, every: float = 0.0, start: float = 0.0) -> None:
        self.comes[partition] += [self.now + start + number * every for number in range(count)]

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.slept += seconds

    def batch(self, partition: int, keep_from: int) -> tuple[int, int]:
        found = self.comes[partition][: min(BATCH, self.waiting(partition))]
        self.waits += [self.now - at for at in found]
        self.comes[partition] = self.comes[partition][len(found) :]
        self.now += BATCH_SECONDS + COMMAND_SECONDS * len(found)
        self.batches.append((partition, len(found)))
        left = self.waiting(partition)
        (self.bells.add if found and (left or len(found) >= keep_from) else self.bells.discard)(partition)
        return len(found), left

    def look(self, partitions: Sequence[int]) -> list[Sight]:
        self.looks += 1
        self.now += 0.0001
        return [
            Sight(p, self.waiting(p), int((self.now - self.comes[p][0]) * 1000), p in self.taken)
            for p in partitions
            if self.waiting(p)
        ]

    def release(self, partition: int) -> int:
        if not self.waiting(partition):
            self.bells.discard(partition)
        return self.waiting(partition)

    def waiting(self, partition: int) -> int:
        return bisect_right(self.comes[partition], self.now)


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


def test_with_little_to_do_a_wake_up_is_one_batch(lanes: Lanes) -> None:
    lanes.send(2, FLOWING - 1)
    assert lanes.rounds(2) == FLOWING - 1
    assert (lanes.batches, lanes.looks, lanes.slept, lanes.bells) == ([(2, FLOWING - 1)], 0, 0.0, set())


def test_under_load_what_comes_is_let_gather_but_waits_no_longer_than_said(lanes: Lanes) -> None:
    lanes.send(0, FLOWING)
    for partition in range(4):
        lanes.send(partition, 300, every=0.002, start=0.001)
    assert lanes.rounds(0) == 1200 + FLOWING
    assert len(lanes.batches) < 300
    assert max(lanes.waits) < LINGER_MOST_SECONDS + 4 * (BATCH_SECONDS + 0.001)
    assert (lanes.bells, lanes.rung) == (set(), [])  # whoever comes next rings


def test_a_backlog_is_worked_off_without_a_pause_and_calls_another_worker_once(lanes: Lanes) -> None:
    for partition in range(4):
        lanes.send(partition, 5000)
    lanes.rounds(1)
    assert len(lanes.batches) == 20
    assert lanes.slept < 0.1  # only at the end, for what may still come
    assert len(lanes.rung) == 1


def test_of_a_flood_somebody_who_waits_elsewhere_gets_a_turn(lanes: Lanes) -> None:
    lanes.send(0, 100_000)
    lanes.send(3, 1)
    lanes.rounds(0)
    assert 3 in [partition for partition, _ in lanes.batches[:5]]


def test_what_another_worker_has_in_hand_is_left_to_it(lanes: Lanes) -> None:
    lanes.send(0, ENOUGH)
    lanes.send(1, ENOUGH)
    lanes.taken.add(1)
    assert lanes.rounds(0) == ENOUGH
    assert {partition for partition, _ in lanes.batches} == {0}


def test_what_a_worker_has_not_finished_it_goes_on_with_though_its_mark_is_there(lanes: Lanes) -> None:
    lanes.send(0, 3 * BATCH)
    lanes.taken.add(0)  # the mark of the batch over which somebody died
    assert lanes.rounds(0) == 3 * BATCH


def test_a_stint_ends_and_somebody_is_woken_for_what_is_left(lanes: Lanes) -> None:
    lanes.send(0, 100_000)
    begun = lanes.now
    lanes.rounds(0)
    assert lanes.now < begun + STINT_SECONDS + 1
    assert lanes.rung[-1:] == [0]


def test_somebody_is_woken_for_each_partition_in_which_something_is_left(lanes: Lanes) -> None:
    lanes.send(0, 100_000)
    lanes.send(1, 100_000)
    lanes.rounds(0)
    assert set(lanes.rung[-2:]) == {0, 1}


def test_of_many_partitions_only_those_around_are_looked_at() -> None:
    lanes = Lanes(partitions=3 * AROUND)
    for partition in (AROUND, 2 * AROUND):
        lanes.send(partition, ENOUGH)
    assert lanes.rounds(AROUND + 1) == 0  # nobody was there: a wake-up for nothing is no reason to look
    lanes.send(AROUND + 1, FLOWING)
    assert lanes.rounds(AROUND + 1) == ENOUGH + FLOWING


def test_bells_are_released_also_when_postgres_goes_away(lanes: Lanes) -> None:
    lanes.send(0, ENOUGH)
    lanes.send(1, ENOUGH, start=0.001)
    served = lanes.batch

    def batch(partition: int, keep_from: int) -> tuple[int, int]:
        if partition == 1:
            raise ConnectionError
        return served(partition, keep_from)

    lanes.batch = batch  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        lanes.rounds(0)
    assert lanes.bells == set()
