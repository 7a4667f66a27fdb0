"""Removing sessions that were over long ago, whole: the use case behind `aforo prune`. What remains replays at every moment.

A handful of sessions is marked, and from then on neither readers nor the drain nor `verify` see them; then their rows go, some
at a time, and the sessions last. A run that broke off left marked ones behind, which the next run removes first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from core.crashpoints import reach
from core.erasure import Erasure, Pruned
from core.model import partition_of_session
from core.scrub import Scrub
from core.settle import Settle

SESSIONS_AT_ONCE = 200
ROWS_AT_ONCE = 5000


class Prune:
    """Removes whole sessions, and what only they needed."""

    def __init__(self, erasure: Erasure, scrub: Scrub, settle: Settle, partitions: int) -> None:
        self._erasure = erasure
        self._scrub = scrub
        self._settle = settle
        self._partitions = partitions

    def preview(self, age: timedelta) -> Pruned:
        """What there is to remove that was over so long ago. Raises Unavailable."""
        return self._erasure.would_go(self._erasure.moment(age))

    def __call__(self, age: timedelta, progress: Callable[[int], None] = lambda sessions: None) -> Pruned:
        """Remove it. `progress(sessions)` hears how many more are gone. Raises NotOwner, StillSeen, Unavailable."""
        self._erasure.check_rights()
        before = self._erasure.moment(age)
        self._scrub.begin_era()  # for those that a run marked which broke off
        found = self._remove_marked(Pruned(), progress)
        last = 0
        while ids := self._erasure.over(before, last, SESSIONS_AT_ONCE):
            self._mark(ids, before)
            found = self._remove_marked(found, progress)
            last = ids[-1]
        batches = sum(self._erasure.prune_batches(before, ROWS_AT_ONCE))
        incidents = _all_of(partial(self._erasure.prune_incidents, before))
        unreadable = _all_of(partial(self._erasure.prune_unreadable, before))
        reach("before_cleaning")
        self._scrub.rewrite_log()
        self._erasure.clean(rewrite=False)
        return replace(found, batches=batches, incidents=incidents, unreadable=unreadable)

    def _mark(self, ids: Sequence[int], before: datetime) -> None:
        """Mark those of which nothing waits any more; the few of which something does are left to the next run."""
        lanes: dict[int, list[int]] = defaultdict(list)
        for session_id in ids:
            lanes[partition_of_session(session_id, self._partitions)].append(session_id)
        self._settle(lanes)
        for partition, sessions in lanes.items():
            self._erasure.mark(partition, sessions, before, partial(self._scrub.retire, partition))
            self._scrub.begin_era()
            reach("after_mark")
            self._settle.look_again(partition)

    def _remove_marked(self, found: Pruned, progress: Callable[[int], None]) -> Pruned:
        reservations = _all_of(self._erasure.prune_reservations)
        jobs = _all_of(self._remove_jobs)
        sessions = _all_of(partial(self._remove_sessions, progress))
        return replace(
            found,
            sessions=found.sessions + sessions,
            reservations=found.reservations + reservations,
            jobs=found.jobs + jobs,
        )

    def _remove_jobs(self, limit: int) -> int:
        job_ids = self._erasure.prune_jobs(limit)
        self._scrub.drop_jobs(job_ids)
        return len(job_ids)

    def _remove_sessions(self, progress: Callable[[int], None], limit: int) -> int:
        sessions = self._erasure.prune_sessions(limit)
        self._scrub.drop_heads(sessions)  # one may have been loaded while its session was being marked
        progress(len(sessions))
        return len(sessions)


def _all_of(step: Callable[[int], int]) -> int:
    """Repeat a step until it finds less than it may remove. How much that was."""
    total = 0
    while True:
        count = step(ROWS_AT_ONCE)
        total += count
        reach("mid_prune")
        if count < ROWS_AT_ONCE:
            return total
