"""Keeps a worker at it while commands keep coming: one wake-up serves all partitions, and a short wait lets batches grow.

A wake-up through Celery costs as much as applying a dozen commands, and so does a batch, however small. So whoever is woken
looks around after its batch, and under load waits a little before it takes what came in the meantime; it keeps the bells of
the partitions it serves, so that nobody rings for them. With little to do it is gone after its one batch, and nobody waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from core.lookout import Sight

STINT_SECONDS = 1.0  # then Celery has a say again
AROUND = 32  # partitions looked at together
FLOWING = 4  # commands in a batch: fewer are no load
ENOUGH = 250  # commands in a batch: waiting for more would make none of them cheaper
LINGER_LEAST_SECONDS = 0.002
LINGER_MOST_SECONDS = 0.02
LINGER_BATCHES = 1.0  # wait for as long as so many batches have taken, lately: the busier the machine, the longer
IDLE_LINGERS = 3  # nothing has come for so long: the flow is over


class DrainPort(Protocol):
    """See core.service.Drain."""

    def batch(self, partition: int, keep_from: int) -> tuple[int, int]: ...


class LookoutPort(Protocol):
    """See core.lookout.Lookout."""

    def look(self, partitions: Sequence[int]) -> list[Sight]: ...
    def release(self, partition: int) -> int: ...


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
    ) -> None:
        self._drain = drain
        self._lookout = lookout
        self._partitions = partitions
        self._ring = ring
        self._clock = clock
        self._sleep = sleep
        self._batch_seconds = 0.0

    def __call__(self, partition: int) -> int:
        """Serve `partition`, then all that flows, until nothing comes or the stint is over. How many commands were dealt with.

        Raises Unavailable when Postgres or Redis cannot serve; what was not dealt with stays, and bells that were kept run out.
        """
        count, left = self._batch(partition, FLOWING)
        if not left and count < FLOWING:
            return count
        kept = {partition}
        try:
            return count + self._stay(partition, kept, bool(left))
        finally:
            self._leave(kept)

    def _stay(self, partition: int, kept: set[int], is_left: bool) -> int:
        start = partition - partition % AROUND
        around = range(start, min(start + AROUND, int(self._partitions)))
        unfinished = {partition} if is_left else set()  # by this worker, so nobody is at them
        served = {partition: self._clock()}
        dealt_with, called = 0, False
        came = begun = self._clock()
        while (now := self._clock()) < begun + STINT_SECONDS:
            linger = self._linger()
            open_ = [s for s in self._lookout.look(around) if not s.is_taken or s.partition in unfinished]
            ripe = [s for s in open_ if s.waiting >= ENOUGH or s.age_ms >= linger * 1000]
            if not ripe:
                if not open_ and now > came + IDLE_LINGERS * linger:
                    break
                self._sleep(linger - max((s.age_ms for s in open_), default=0) / 1000)
                continue
            if len(ripe) > 1 and not called and min(s.waiting for s in ripe) >= ENOUGH:
                called = True  # more than one can do: if there is another, let it come
                self._ring(ripe[-1].partition)
            chosen = min(ripe, key=lambda s: (served.get(s.partition, 0.0), -s.age_ms)).partition
            count, left = self._batch(chosen, 1)
            served[chosen] = now
            dealt_with += count
            if count:
                came = self._clock()
                kept.add(chosen)
            (unfinished.add if left else unfinished.discard)(chosen)
        return dealt_with

    def _leave(self, kept: set[int]) -> None:
        """Let bells ring again, and ring at once where something is left: who hears one may be gone after a small batch."""
        for partition in kept:
            if self._lookout.release(partition):
                self._ring(partition)

    def _batch(self, partition: int, keep_from: int) -> tuple[int, int]:
        begun = self._clock()
        count, left = self._drain.batch(partition, keep_from)
        if count:
            self._batch_seconds = 0.8 * self._batch_seconds + 0.2 * (self._clock() - begun)
        return count, left

    def _linger(self) -> float:
        return min(max(LINGER_BATCHES * self._batch_seconds, LINGER_LEAST_SECONDS), LINGER_MOST_SECONDS)
