"""Jobs as they stand: from Redis, else from the ledger, with what changes about them after they are done.

An outcome never changes, but its reservation may: it is promoted, or cancelled with its whole session. Here that is added.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from core.arrangement import SharedLook
from core.grouping import Grouped
from core.model import CANCELLED, OF_ANOTHER, WAITLISTED, Job
from core.projections import JobNow, Projections
from core.queries import Queries
from core.threads import Threads
from core.unknown import REMEMBERED_SECONDS, Unknown

LOOK_UP_LIMIT: Final = 256  # jobs or reservations looked up in Postgres in one statement
RECENT_SECONDS: Final = 600  # much longer than what is committed waits to be published


class Jobs:
    """Of all sessions, for one API process."""

    def __init__(
        self, projections: Projections, queries: Queries, threads: Threads, look: SharedLook, job_ttl_seconds: float
    ) -> None:
        self._projections = projections
        self._queries = queries
        self._threads = threads
        self._look = look
        # Redis forgets a finished job later than this, so a job that was accepted after it was looked for is always found.
        self._unknown: Unknown[str] = Unknown(min(REMEMBERED_SECONDS, job_ttl_seconds / 2))
        self.in_ledger: Grouped[str, Job | None] = Grouped(self._read, LOOK_UP_LIMIT)
        self._positions: Grouped[int, int | None] = Grouped(self._read_positions, LOOK_UP_LIMIT)

    async def find(self, job_id: str) -> Job | None:
        """A job from Redis, else from the ledger."""
        lanes = self._look.lanes.now
        job = await self._projections.job(job_id)
        if job is None and not self._unknown.get(job_id):
            job = await self.in_ledger(job_id)
            if job is None and await self._look.found_others(lanes):
                job = await self._projections.job(job_id) or await self.in_ledger(job_id)
            if job is None:
                self._unknown.add(job_id)
        return job

    async def all(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Several jobs, in their order: those that Redis does not have in one read of the ledger."""
        lanes = self._look.lanes.now
        jobs = await asyncio.gather(*map(self._projections.job, job_ids))
        if None in jobs and await self._look.found_others(lanes):
            jobs = await asyncio.gather(*map(self._projections.job, job_ids))
        missing = [job_id for job_id, job in zip(job_ids, jobs, strict=True) if job is None]
        found = await self._threads.read(self._queries.jobs, missing) if missing else {}
        await self._announce_recent(found.values())
        return [job or found.get(job_id) for job_id, job in zip(job_ids, jobs, strict=True)]

    async def now(self, job_id: str) -> JobNow | None:
        """A job as it stands."""
        job = await self.find(job_id)
        return None if job is None else await self.as_it_stands(job)

    async def as_it_stands(self, job: Job) -> JobNow:
        """A job with what changes about it."""
        if job.outcome is None:
            return JobNow(job, await self._projections.traffic(job.session_id))
        job = await self.as_it_counts(job)
        ended = job.reservation is not None and job.reservation.status == CANCELLED and await self._is_cancelled(job.session_id)
        return JobNow(job, None, await self.waitlist_position(job), ended)

    async def as_it_counts(self, job: Job) -> Job:
        """The job with its reservations as they are now: those of a cancelled session are cancelled with it; and what was
        reduced or amended may have changed again, which only the ledger says of the job that did so."""
        if job.outcome in OF_ANOTHER:
            return await self._threads.read(self._queries.job, job.id) or job
        held = (job.reservation, *job.party) if job.reservation else job.party
        if all(one.status == CANCELLED for one in held) or not await self._is_cancelled(job.session_id):
            return job
        party = tuple([msgspec.structs.replace(one, status=CANCELLED) for one in job.party])
        one = job.reservation and msgspec.structs.replace(job.reservation, status=CANCELLED)
        return msgspec.structs.replace(job, reservation=one, party=party)

    async def waitlist_position(self, job: Job) -> int | None:
        """The place of the job's reservation in the waitlist, from 1; None if it does not wait."""
        if job.reservation is None or job.reservation.status != WAITLISTED:
            return None
        return await self._positions(job.reservation.id)

    async def _is_cancelled(self, session_id: int) -> bool:
        head = await self._projections.head(session_id)
        if head is not None:
            return head.now.state == CANCELLED
        view = await self._threads.read(self._queries.session, session_id)
        return view is not None and view.cancelled_at is not None

    async def _read(self, job_ids: Sequence[str]) -> Sequence[Job | None]:
        found = await self._threads.read(self._queries.jobs, job_ids)
        await self._announce_recent(found.values())
        return [found.get(job_id) for job_id in job_ids]

    async def _announce_recent(self, jobs: Iterable[Job]) -> None:
        """What the ledger alone says of late may not have been published: whoever is told of it is to find it everywhere."""
        recent_ms = (time.time() - RECENT_SECONDS) * 1000
        sessions = {job.session_id for job in jobs if job.applied_at is not None and job.applied_at > recent_ms}
        await asyncio.gather(*map(self._projections.announce_change, sessions))

    async def _read_positions(self, reservation_ids: Sequence[int]) -> Sequence[int | None]:
        found = await self._threads.read(self._queries.positions, reservation_ids)
        return [found.get(reservation_id) for reservation_id in reservation_ids]
