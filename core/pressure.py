"""When the door slows down: more waits than the workers take out, so that what it takes in now only waits longer.

A busy API takes the processor from the workers, and the backlog it makes grows the faster the more they lack it. So while more
waits than fills their batches, and they do take something out, the door pauses between groups, the longer the more waits. Where
nobody takes anything out (no worker, no Postgres) there is nobody to leave the processor to, and everything is taken in until the
mailboxes are full. Whoever would wait too long at the door, for whatever reason, is refused at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

GROUP = 64  # commands in a group while the door is slow: many small ones wait less than a few large ones
PAUSE_SECONDS_MAX = GROUP / 1000  # so at least a thousand a second are let in
FRESH_SECONDS = 1.0  # so long what a call said counts, and so lately something must have been taken out
CROWD_SECONDS = 0.2  # who would wait longer at the door is turned away
FIRST_GUESS_SECONDS = 0.01  # what a call takes
NEVER = (float("-inf"), 0, b"")


class Pressure:
    """What an API process knows of the backlog from the answers to its own calls."""

    def __init__(self, enough: int, group: int, now: Callable[[], float] = time.monotonic) -> None:
        """`enough`: commands in all mailboxes together with which the workers are at their best; `group`: commands in a call, at
        most, while all is well."""
        self._told: dict[int, tuple[float, int, bytes]] = {}
        self._sum = 0  # of all depths that were told, however long ago
        self._taken_out_at = float("-inf")
        self._enough = enough
        self._group = group
        self._call_seconds = FIRST_GUESS_SECONDS
        self._now = now

    def note(self, partition: int, depth: int, pace: bytes) -> None:
        """What a call said of a partition; its pace changes with each batch that is taken out."""
        now = self._now()
        at, depth_before, before = self._told.get(partition, NEVER)
        if pace != before and now - at < FRESH_SECONDS:
            self._taken_out_at = now
        self._told[partition] = (now, depth, pace)
        self._sum += depth - depth_before

    def pause_seconds(self) -> float:
        """How long to wait before the next group; 0 while all is well."""
        if self._sum <= self._enough:  # nearly always, and then it is not worth looking how fresh it is
            return 0.0
        since = self._now() - FRESH_SECONDS
        if self._taken_out_at < since:
            return 0.0
        excess = sum([depth for at, depth, _ in self._told.values() if at >= since]) - self._enough
        return PAUSE_SECONDS_MAX * min(1.0, excess / (2 * self._enough)) if excess > 0 else 0.0

    def took(self, seconds: float) -> None:
        """How long a call took, and with it all that this process had to do meanwhile."""
        self._call_seconds = 0.7 * self._call_seconds + 0.3 * seconds

    def is_crowd(self, waiting: int) -> bool:
        """Whether so many at the door are too many: who comes behind them would wait too long."""
        if waiting < GROUP:
            return False
        pause = self.pause_seconds()
        group = GROUP if pause else self._group
        return waiting >= max(group, CROWD_SECONDS * group / (pause + self._call_seconds))
