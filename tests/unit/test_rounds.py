"""A worker's rounds, with mailboxes and a clock that are the test's: when it takes what and with what, how long it stays."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence

import pytest

from core.lookout import Sight
from core.rounds import AROUND, ENOUGH, IDLE_SECONDS, LINGER_LEAST_SECONDS, STINT_SECONDS, Rounds

BATCH = 1000
BATCH_SECONDS = 0.003
COMMAND_SECONDS = 0.00002


class Lanes:
    """Mailboxes that fill as time goes by, a drain, a lookout and a doorbell."""

    def __init__(self, partitions: int = 4) -> None:
        self.now = 100.0
        self.comes: dict[int, list[float]] = defaultdict(list)  # when, in order
        self.taken: set[int] = set()
        self.in_doubt: set[int] = set()
        self.batch_size = BATCH
        self.batches: list[dict[int, int]] = []
        self.waits: list[float] = []
        self.bells: set[int] = set()
        self.rung: list[int] = []
        self.looks = 0
        self.slept = 0.0
        self.leaves_at = float("inf")
        self.rounds = Rounds(
            self, self, partitions, self.rung.append, lambda: self.now, self.sleep, lambda: self.now >= self.leaves_at
        )

    def send(self, partition: int, count: int, every: float = 0.0, start: float = 0.0) -> None:
        self.comes[partition] += [self.now + start + number * every for number in range(count)]

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.slept += seconds

    def together(self, partitions: Sequence[int], keep_from: int) -> dict[int, tuple[int, int]]:
        assert keep_from == 1
        found = {p: self.comes[p][: min(BATCH, self.waiting(p))] for p in partitions if self.waiting(p)}
        for partition, some in found.items():
            self.waits += [self.now - at for at in some]
            self.comes[partition] = self.comes[partition][len(some) :]
        self.now += BATCH_SECONDS + COMMAND_SECONDS * sum(map(len, found.values()))
        self.batches.append({partition: len(some) for partition, some in found.items()})
        self.bells |= found.keys()
        return {partition: (len(some), self.waiting(partition)) for partition, some in found.items()}

    def round(
        self, turns: Sequence[Sequence[int]], around: Sequence[int] = ()
    ) -> tuple[dict[int, tuple[int, int]], list[Sight] | None]:
        found: dict[int, tuple[int, int]] = {}
        for turn in turns:
            if free := [p for p in turn if p not in self.taken and self.waiting(p)]:
                for p, (count, left) in self.together(free, 1).items():
                    found[p] = (found.get(p, (0, 0))[0] + count, left)
        return found, self.look(around, True) if found and around else None

    def look(self, partitions: Sequence[int], keep_bells: bool) -> list[Sight]:
        assert keep_bells
        self.looks += 1
        self.bells |= set(partitions)
        self.now += 0.0001
        return [
            Sight(p, self.waiting(p), int((self.now - self.comes[p][0]) * 1000), p in self.taken)
            for p in partitions
            if self.waiting(p)
        ]

    def wait(self, partitions: Sequence[int], seconds: float) -> list[int]:
        first = min((self.comes[p][0] for p in partitions if self.comes[p]), default=float("inf"))
        self.now = max(self.now, min(first, self.now + seconds))
        return [p for p in partitions if self.waiting(p)]

    def release(self, partitions: Sequence[int]) -> list[int]:
        left = [p for p in partitions if self.waiting(p)]
        self.bells -= set(partitions) - set(left)
        return left

    def waiting(self, partition: int) -> int:
        return bisect_right(self.comes[partition], self.now)


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


def test_with_little_to_do_each_command_is_taken_as_it_comes_in_whichever_partition(lanes: Lanes) -> None:
    lanes.send(2, 1)
    for partition in range(4):
        lanes.send(partition, 5, every=0.1, start=0.05 + 0.025 * partition)
    assert lanes.rounds(2) == 21
    assert lanes.batches == [{2: 1}, *({partition: 1} for _ in range(5) for partition in range(4))]
    assert max(lanes.waits) < 0.001  # for the look whether somebody is at it


def test_who_is_called_stays_a_while_and_then_goes(lanes: Lanes) -> None:
    begun = lanes.now
    lanes.send(2, 1)
    assert lanes.rounds(2) == 1
    assert IDLE_SECONDS < lanes.now - begun < 3 * IDLE_SECONDS
    assert (lanes.bells, lanes.rung) == (set(), [])  # whoever comes next rings


def test_who_is_called_for_nothing_goes_at_once(lanes: Lanes) -> None:
    assert lanes.rounds(2) == 0
    assert (lanes.looks, lanes.slept > LINGER_LEAST_SECONDS) == (0, False)


def test_under_load_what_comes_is_let_gather_but_waits_no_longer_than_said(lanes: Lanes) -> None:
    lanes.send(0, 4)
    for partition in range(4):
        lanes.send(partition, 300, every=0.002, start=0.001)
    assert lanes.rounds(0) == 1204
    assert len(lanes.batches) < 250
    assert max(lanes.waits) < LINGER_LEAST_SECONDS + 3 * (BATCH_SECONDS + 0.001)
    assert (lanes.bells, lanes.rung) == (set(), [])


def test_a_little_in_each_partition_is_one_batch(lanes: Lanes) -> None:
    lanes.send(0, 1)
    for partition in range(4):
        lanes.send(partition, 30, start=0.001)  # while the first batch is under way
    assert lanes.rounds(0) == 121
    assert lanes.batches[:2] == [{0: 1}, dict.fromkeys((1, 2, 3, 0), 30)]


def test_much_in_each_partition_is_a_batch_each(lanes: Lanes) -> None:
    for partition in range(4):
        lanes.send(partition, ENOUGH - 1)
    assert lanes.rounds(0) == 4 * (ENOUGH - 1)
    assert [len(batch) for batch in lanes.batches] == [1] * 4


def test_a_backlog_is_worked_off_without_a_pause_and_calls_another_worker_once(lanes: Lanes) -> None:
    for partition in range(4):
        lanes.send(partition, 5000)
    lanes.rounds(1)
    assert len(lanes.batches) == 20
    assert lanes.looks < 10  # in between, four batches go one after another
    assert lanes.slept < 0.1  # only at the end, for what may still come
    assert len(lanes.rung) == 1


def test_one_partitions_backlog_goes_batch_after_batch_as_far_as_full_ones_were_seen(lanes: Lanes) -> None:
    lanes.send(0, 4 * BATCH + 1)
    lanes.rounds(0)
    assert [sum(batch.values()) for batch in lanes.batches] == [BATCH] * 4 + [1]
    assert lanes.looks < 6


def test_of_a_flood_somebody_who_waits_elsewhere_gets_a_turn(lanes: Lanes) -> None:
    lanes.send(0, 100_000)
    lanes.send(3, 1)
    lanes.rounds(0)
    assert any(3 in batch for batch in lanes.batches[:5])


def test_what_another_worker_has_in_hand_is_left_to_it(lanes: Lanes) -> None:
    lanes.send(0, ENOUGH)
    lanes.send(1, ENOUGH)
    lanes.taken.add(1)
    assert lanes.rounds(0) == ENOUGH
    assert {partition for batch in lanes.batches for partition in batch} == {0}


def test_what_comes_while_another_worker_is_at_it_is_left_to_it_too(lanes: Lanes) -> None:
    lanes.send(0, 2, every=0.1)
    lanes.send(1, 3, start=0.05)
    lanes.taken.add(1)
    assert lanes.rounds(0) == 2
    assert lanes.batches == [{0: 1}, {0: 1}]


def test_what_two_workers_serve_in_turn_neither_takes_while_the_other_has_it(lanes: Lanes) -> None:
    lanes.send(0, 3 * BATCH)
    lanes.taken.add(0)  # since the first batch, which left some
    assert lanes.rounds(0) == BATCH
    assert lanes.rung == [0]


def test_what_a_worker_has_not_finished_it_goes_on_with_though_its_mark_is_there(lanes: Lanes) -> None:
    lanes.send(0, 3 * BATCH)
    lanes.taken.add(0)  # the mark of the batch over which somebody died
    lanes.in_doubt.add(0)
    assert lanes.rounds(0) == 3 * BATCH


def test_who_is_asked_to_leave_goes_after_the_batch_under_way_and_rings_for_what_is_left(lanes: Lanes) -> None:
    lanes.send(0, 20_000, every=0.0005)
    lanes.leaves_at = lanes.now + 1
    lanes.rounds(0)
    assert 1 <= lanes.now - 100 < 1.1 < STINT_SECONDS
    lanes.now += 0.01
    assert lanes.rounds(0) > 0  # one batch for whoever rings, and no more
    assert lanes.now - 100 < 1.2
    assert len(lanes.rung) == 2


def test_a_stint_ends_and_somebody_is_woken_for_what_is_left(lanes: Lanes) -> None:
    lanes.send(0, 1_000_000)
    begun = lanes.now
    lanes.rounds(0)
    assert lanes.now < begun + STINT_SECONDS + 1
    assert lanes.rung[-1:] == [0]


def test_somebody_is_woken_for_each_partition_in_which_something_is_left(lanes: Lanes) -> None:
    lanes.send(0, 500_000)
    lanes.send(1, 500_000)
    lanes.rounds(0)
    assert set(lanes.rung[-2:]) == {0, 1}


def test_somebody_is_woken_for_what_came_at_the_very_end_where_nothing_was_before(lanes: Lanes) -> None:
    lanes.send(0, 1)
    released = lanes.release

    def release(partitions: Sequence[int]) -> list[int]:
        lanes.send(2, 1)  # its bell is kept, so whoever sent it did not ring
        return released(partitions)

    lanes.release = release  # type: ignore[method-assign]
    assert lanes.rounds(0) == 1
    assert lanes.rung == [2]


def test_of_many_partitions_only_those_around_are_looked_at() -> None:
    lanes = Lanes(partitions=3 * AROUND)
    for partition in (AROUND, 2 * AROUND):
        lanes.send(partition, ENOUGH)
    assert lanes.rounds(AROUND + 1) == 0  # nobody was there: a wake-up for nothing is no reason to look
    lanes.send(AROUND + 1, 1)
    assert lanes.rounds(AROUND + 1) == ENOUGH + 1


def test_what_somebody_has_without_a_mark_is_not_asked_for_again_and_again(lanes: Lanes) -> None:
    lanes.send(0, 1)
    lanes.send(1, 5, start=0.001)
    served = lanes.together
    asked: list[float] = []

    def together(partitions: Sequence[int], keep_from: int) -> dict[int, tuple[int, int]]:
        if 1 not in partitions:
            return served(partitions, keep_from)
        asked.append(lanes.now)
        return {}

    lanes.together = together  # type: ignore[method-assign]
    assert lanes.rounds(0) == 1
    assert len(asked) < 1.5 * STINT_SECONDS / LINGER_LEAST_SECONDS


def test_bells_are_released_also_when_postgres_goes_away(lanes: Lanes) -> None:
    lanes.send(0, ENOUGH)
    lanes.send(1, ENOUGH, start=0.001)
    served = lanes.together

    def together(partitions: Sequence[int], keep_from: int) -> dict[int, tuple[int, int]]:
        if 1 in partitions:
            raise ConnectionError
        return served(partitions, keep_from)

    lanes.together = together  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        lanes.rounds(0)
    assert (lanes.bells - {1}, lanes.rung) == (set(), [1])
    with pytest.raises(ConnectionError):
        lanes.rounds(1)
    assert lanes.rung == [1]  # who comes and can do nothing calls nobody: the sweeper will look
