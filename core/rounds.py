"""Keeps a worker at it while commands keep coming: one wake-up serves all partitions, and a short wait lets batches grow.

A wake-up through Celery costs as much as applying a dozen commands, and takes longer than a batch. So whoever is woken stays for
a while after the last command: it waits for the next at Redis itself, which tells it at once, and keeps the bells of the
partitions around, so that nobody rings for them. Under load it lets commands gather for about as long as a batch takes, and
while there is little in each partition it takes several together, so that what a batch costs is shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from core.lookout import Sight

STINT_SECONDS = 4.0  # then Celery has a say again
IDLE_SECONDS = 0.5  # nothing has come for so long: the flow is over
WATCH_SECONDS = 0.3  # at a time, and then the bells are kept again
AROUND = 32  # partitions looked at together
ENOUGH = 250  # commands in a batch: waiting for more would make none of them cheaper
LINGER_LEAST_SECONDS = 0.002
LINGER_MOST_SECONDS = 0.02
LINGER_BATCHES = 1.0  # wait for as long as so many batches have taken, lately: the busier the machine, the longer
PAUSE_LEAST_SECONDS = 0.0005


class DrainPort(Protocol):
    """See core.service.Drain."""

    in_doubt: set[int]

    def together(self, partitions: Sequence[int], keep_from: int) -> Mapping[int, tuple[int, int]]: ...


class LookoutPort(Protocol):
    """See core.lookout.Lookout."""

    def look(self, partitions: Sequence[int], keep_bells: bool) -> list[Sight]: ...
    def wait(self, partitions: Sequence[int], seconds: float) -> list[int]: ...
    def release(self, partitions: Sequence[int]) -> list[int]: ...


class Rounds:
    """Serves whatever waits, in turn, from one wake-up on."""

    def __init__(
        self,
        drain: DrainPort,
        lookout: LookoutPort,
        partitions: int,
        ring: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_leaving()`: whether this process is asked to end, so that nobody should stay."""
        self._drain = drain
        self._lookout = lookout
        self._partitions = partitions
        self._ring = ring
        self._clock = clock
        self._sleep = sleep
        self._is_leaving = is_leaving
        self._batch_seconds = 0.0

    def __call__(self, partition: int) -> int:
        """Serve `partition`, then all that flows, until nothing comes or the stint is over. How many commands were dealt with.

        Raises Unavailable when Postgres or Redis cannot serve; what was not dealt with stays, and bells that were kept run out.
        """
        start = partition - partition % AROUND
        stint = _Stint(range(start, min(start + AROUND, int(self._partitions))), self._clock())
        self._batch(stint, [partition])
        if not stint.dealt_with:
            return 0
        try:
            while not self._is_leaving() and self._clock() < stint.begun + STINT_SECONDS and self._turn(stint):
                pass
        finally:
            self._leave(stint)
        return stint.dealt_with

    def _turn(self, stint: _Stint) -> bool:
        """One look, and what follows from it. Whether there is a reason to stay."""
        if stint.is_calm and self._clock() < stint.looked + WATCH_SECONDS:
            self._watch(stint, stint.around)
            return True
        stint.looked = self._clock()
        sights = self._lookout.look(stint.around, True)
        free = [sight for sight in sights if not sight.is_taken or sight.partition in self._drain.in_doubt]
        linger = self._linger()
        oldest = max((sight.age_ms for sight in free), default=0) / 1000
        if oldest >= linger or any(sight.waiting >= ENOUGH for sight in free):
            self._serve(stint, free, linger)
        elif free:
            self._sleep(max(linger - oldest, PAUSE_LEAST_SECONDS))
        elif self._clock() > stint.came + IDLE_SECONDS:
            return False
        else:
            waiting = {sight.partition for sight in sights}
            self._watch(stint, [partition for partition in stint.around if partition not in waiting])
        return True

    def _watch(self, stint: _Stint, partitions: Sequence[int]) -> None:
        """Wait for the next command, and take it at once: there is little to do."""
        come = self._lookout.wait(partitions, WATCH_SECONDS)
        if come := come and [sight.partition for sight in self._lookout.look(come, True) if not sight.is_taken]:
            self._batch(stint, come)
        stint.is_calm = bool(come) and stint.is_done

    def _serve(self, stint: _Stint, free: list[Sight], linger: float) -> None:
        """One batch: of the partition that has waited longest for its turn, and of others as long as all of it is little."""
        ripe = [sight for sight in free if sight.waiting >= ENOUGH or sight.age_ms >= linger * 1000]
        if len(ripe) > 1 and not stint.called and min(sight.waiting for sight in ripe) >= ENOUGH:
            stint.called = True  # more than one can do: if there is another, let it come
            self._ring(ripe[-1].partition)
        in_turn = sorted(ripe, key=stint.turn) + sorted((s for s in free if s not in ripe), key=stint.turn)
        chosen, many = [in_turn[0].partition], in_turn[0].waiting
        for sight in in_turn[1:]:
            if many + sight.waiting <= ENOUGH:
                chosen.append(sight.partition)
                many += sight.waiting
        self._batch(stint, chosen)
        stint.is_calm = False

    def _batch(self, stint: _Stint, partitions: list[int]) -> None:
        begun = self._clock()
        found = self._drain.together(partitions, 1)
        stint.note(partitions, found, begun)
        if found:
            stint.came = self._clock()
            self._batch_seconds = 0.8 * self._batch_seconds + 0.2 * (stint.came - begun)
        else:  # somebody is at it of whom there is no mark
            self._sleep(LINGER_LEAST_SECONDS)

    def _leave(self, stint: _Stint) -> None:
        """Let bells ring again, and ring at once for what is left: it may have come while this one kept its bell. Where somebody
        else is at it, one wake-up for nothing in a stint costs little."""
        for partition in self._lookout.release(stint.around):
            self._ring(partition)

    def _linger(self) -> float:
        return min(max(LINGER_BATCHES * self._batch_seconds, LINGER_LEAST_SECONDS), LINGER_MOST_SECONDS)


class _Stint:
    """What a worker remembers from one wake-up to when it goes."""

    def __init__(self, around: Sequence[int], begun: float) -> None:
        self.around = around
        self.begun = self.came = begun
        self.dealt_with = 0
        self.called = False
        self.looked = begun - WATCH_SECONDS
        self.is_done = False  # the last batch left nothing
        self.is_calm = False  # nor had anything waited for it: what comes next can be waited for without another look
        self._asked: dict[int, float] = {}

    def note(self, partitions: Sequence[int], found: Mapping[int, tuple[int, int]], at: float) -> None:
        """A batch is done."""
        for partition in partitions:
            self._asked[partition] = at
        self.dealt_with += sum(count for count, _ in found.values())
        self.is_done = bool(found) and not any(left for _, left in found.values())

    def turn(self, sight: Sight) -> tuple[float, int]:
        """Sorts by whose turn it is."""
        return self._asked.get(sight.partition, 0.0), -sight.age_ms
