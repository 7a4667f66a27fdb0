"""How many requests one API process lets in at a time: as many as come, until for a while it has not kept up with them.

A process that has more to do than it gets processor time for works on everything at once and finishes everything late. That is
not seen where requests wait for a group at the door: they wait in sockets and for their turn in the event loop. So what counts is
the loop itself. While it is always late, or the door never empty, fewer and fewer may be under way, and who comes beyond that
is told at once to come again; when it keeps up again, more and more. A burst that is over soon turns nobody away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from core.pressure import GROUP

LONG_SECONDS = 0.05  # from a request's head to its receipt, on average: who waits longer waits too long
SHORT_SECONDS = 0.02  # under a limit: then there may be more
LATE_SECONDS = 0.005  # of the loop, on average: a process that waits for others is not late, and may let in whom it likes
LATE_SECONDS_MAX = 0.05  # one stall counts no more than this
SMOOTH_SECONDS = 0.2
PATIENCE_SECONDS = 0.6  # so long it may be so without a break
LEAST = 3 * GROUP // 2  # may always be under way: a group in its call, and some that wait for the next
MOST = 2048  # with more there is no limit
HALVED_SECONDS = 0.05
DOUBLED_SECONDS = 0.5


class Strain:
    """The limit of one process, by what is seen of it some times in SMOOTH_SECONDS."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._limit: float = MOST
        self._looked_at = self._kept_up_at = float("-inf")
        self._served = 0
        self._forget()

    def _forget(self) -> None:
        self._late_seconds = self._under_way = self._rate = 0.0

    @property
    def has_limit(self) -> bool:
        """Whether not everybody is let in."""
        return self._limit < MOST

    def is_full(self, under_way: int) -> bool:
        """Whether nobody may join so many."""
        return under_way >= self._limit < MOST

    def look(self, late_seconds: float, is_behind: bool, under_way: int, served: int) -> None:
        """What is seen now. `late_seconds`: of the event loop; `is_behind`: the last group left somebody behind, who still waits;
        `under_way`: let in, and without their receipt; `served`: have theirs, since the process began."""
        now = self._now()
        since = now - self._looked_at
        if since > PATIENCE_SECONDS:  # nothing came meanwhile
            self._forget()
            since, self._served, self._kept_up_at = SMOOTH_SECONDS, served, now
        share = 1 - math.exp(-since / SMOOTH_SECONDS)
        late_seconds = LATE_SECONDS_MAX if is_behind else min(late_seconds, LATE_SECONDS_MAX)
        self._late_seconds += share * (late_seconds - self._late_seconds)
        self._under_way += share * (under_way - self._under_way)
        self._rate += share * ((served - self._served) / since - self._rate)
        self._looked_at, self._served = now, served
        if not self._is_strained():
            self._kept_up_at = now
            self._limit = min(float(MOST), self._limit * 2 ** (since / DOUBLED_SECONDS))
        elif now - self._kept_up_at >= PATIENCE_SECONDS:
            self._limit = max(float(LEAST), self._limit / 2 ** (since / HALVED_SECONDS))

    def _is_strained(self) -> bool:
        """Whether requests take long, and that because of this process."""
        long = SHORT_SECONDS if self.has_limit else LONG_SECONDS
        return self._late_seconds > LATE_SECONDS and self._under_way > (long - self._late_seconds) * self._rate
