"""Applying what waits before something is erased: nothing of before may be applied after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from core.errors import Unavailable
from core.scrub import Scrub

SETTLE_SECONDS = 60.0
LOOK_SECONDS = 0.05


class Settle:
    """Drains partitions until what waited in them is applied and gone, beside whatever workers run."""

    def __init__(self, scrub: Scrub, drain: Callable[[int], int]) -> None:
        self._scrub = scrub
        self._drain = drain

    def __call__(self, partitions: Iterable[int]) -> None:
        """Have everything applied and published that waits now. What comes later may wait. Raises Unavailable."""
        marks = [(partition, self._scrub.newest(partition)) for partition in partitions]
        for partition, newest in marks:
            if newest is not None:
                self._until(partition, partial(self._scrub.has_passed, partition, newest))

    def leave_nothing_behind(self, partitions: Iterable[int]) -> None:
        """The same, until not even the memory that those entries lay in is used any more."""
        marks = [(partition, self._scrub.accepted(partition)) for partition in partitions]
        for partition, accepted in marks:
            self._until(partition, partial(self._scrub.has_left_behind, partition, accepted))

    def look_again(self, partition: int) -> None:
        """After letting go of a partition's lock: whoever found it taken went away, and counts on this. Raises Unavailable."""
        self._drain(partition)

    def _until(self, partition: int, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + SETTLE_SECONDS
        while not is_so():
            if time.monotonic() > until:
                raise Unavailable(f"Partition {partition} does not empty: see what its workers log.")
            if not self._drain(partition):
                time.sleep(LOOK_SECONDS)  # somebody else has it
