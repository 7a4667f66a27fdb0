"""What the API reads of Redis: job statuses and slot counts. Both can be rebuilt from Postgres, and are when missing.

Reads of concurrent requests share a round trip that begins after each of them arrived.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from core.entries import Head, SessionHead, decode_job, head_text, read_head
from core.errors import Rearranging, Unavailable
from core.grouping import Grouped
from core.lanes import Lanes
from core.mailbox import CREATED_KEY, CREATED_SECONDS, IDLE_HEAD_SECONDS, REVOKED_KEY, key, script
from core.model import (
    CANCELLED,
    CONFIRMED,
    OF_ANOTHER,
    SOLD_OUT,
    WAITLISTED,
    Frozen,
    Job,
    Session,
    partition_of_job,
    partition_of_session,
)

READ_LIMIT = 512


class Traffic(Frozen):
    """What a queued job can be told: how far its session is, how much its partition holds, and how fast that goes."""

    applied_seq: int
    depth: int
    pace: float


@dataclass(frozen=True, slots=True)
class JobNow:
    """A job as it stands: while it is queued with its traffic, later with its reservation's place in the waitlist.
    `session_cancelled`: of a cancelled reservation, whether its session is so too."""

    job: Job
    traffic: Traffic | None = None
    position: int | None = None
    session_cancelled: bool = False

    @property
    def is_final(self) -> bool:
        """Whether nothing more is to be expected: it has its outcome, and nobody waits."""
        held = self.job.reservation
        return self.job.outcome is not None and (held is None or held.status != WAITLISTED)


@dataclass(frozen=True, slots=True)
class SessionNow:
    """A session's counters, and which version of it they belong to."""

    session_id: int
    version: int
    now: SessionHead


class Projections:
    """Asynchronous reader (and rebuilder) of the projections. Raises Unavailable when Redis cannot be reached."""

    def __init__(self, client: redis.asyncio.Redis, partitions: int, job_ttl_seconds: int) -> None:
        self._client = client
        self._partitions = partitions
        self._job_ttl_ms = 1000 * job_ttl_seconds
        self._put_head = client.register_script(script("head"))
        self._changed = client.register_script(script("changed"))
        self.job: Grouped[str, Job | None] = Grouped(self._jobs, READ_LIMIT)
        self.outcome: Grouped[tuple[str, int | None], tuple[Job | None, str | None]] = Grouped(self._outcomes, READ_LIMIT)
        self.head: Grouped[int, Head | None] = Grouped(self._heads, READ_LIMIT)
        self._creation: Grouped[None, bytes] = Grouped(self._creations, READ_LIMIT)
        self.traffic: Grouped[int, Traffic] = Grouped(self._traffic, READ_LIMIT)

    async def put_head(self, session: Session, first_accepted_ms: int, lanes: Lanes | None = None) -> bool:
        """Put a session's counters where Redis has none or older ones. True if Redis never saw the partition before.

        `first_accepted_ms`: when its first command was accepted, 0 if none was. `lanes`: read before the session was; it must not
        be put under later ones. Raises Rearranging.
        """
        lanes = lanes or self._partitions
        partition = partition_of_session(session.id, lanes)
        arguments = [session.id, head_text(session), session.version, session.last_seq]
        arguments += [IDLE_HEAD_SECONDS, first_accepted_ms, self._job_ttl_ms, str(lanes)]
        try:
            answer = await self._put_head(keys=[key(partition, "mailbox")], args=arguments)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        if answer < 0:
            raise Rearranging
        return bool(answer)

    async def announce_creation(self, session_id: int) -> None:
        """A session was created: what any process remembers of unknown ones, and has kept of lists, counts no more."""
        try:
            await self._client.set(CREATED_KEY, secrets.token_bytes(8), ex=CREATED_SECONDS)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        await self.announce_change(session_id)

    async def announce_change(self, session_id: int) -> None:
        """Something of a session changed otherwise than by a command: readers that kept what they saw look again."""
        partition = partition_of_session(session_id, self._partitions)
        try:
            await self._changed(keys=[key(partition, "mailbox")])
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc

    async def creation(self) -> bytes:
        """The word that the last creation left; see core/unknown.py."""
        return await self._creation(None)

    async def _creations(self, asks: Sequence[None]) -> Sequence[bytes]:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.get(CREATED_KEY)
        (word,) = await self._execute(pipeline)
        return [word or b"none"] * len(asks)

    async def are_known(self, session_ids: Sequence[int]) -> bool:
        """Whether Redis has the heads of all these sessions, each named once. Far less work than to read them."""
        partitions = int(self._partitions)
        asked: dict[int, list[Any]] = {}
        for session_id in session_ids:
            partition, name = _head_in(partitions, session_id)
            asked.setdefault(partition, ["EXISTS"]).append(name)
        try:
            found = await self._client.exchange([tuple(words) for words in asked.values()])  # type: ignore[attr-defined]
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        if wrong := [answer for answer in found if isinstance(answer, Exception)]:
            raise Unavailable("Redis cannot be reached.") from wrong[0]
        return sum(found) == len(session_ids)

    async def revoked(self, key_ids: Sequence[str]) -> set[str]:
        """Those of these keys that were revoked lately; see REVOKED_KEY."""
        pipeline = self._client.pipeline(transaction=False)
        for key_id in key_ids:
            pipeline.exists(REVOKED_KEY.format(key_id))
        return {key_id for key_id, found in zip(key_ids, await self._execute(pipeline), strict=True) if found}

    async def depths(self) -> list[tuple[int, int | None]]:
        """For each partition: entries waiting, and the age in milliseconds of the oldest (None when nothing waits)."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.time()
        for partition in range(self._partitions):
            pipeline.xlen(key(partition, "mailbox"))
            pipeline.xrange(key(partition, "mailbox"), count=1)
        (seconds, micros), *rows = await self._execute(pipeline)
        now_ms = seconds * 1000 + micros // 1000
        return [
            (rows[i], now_ms - int(rows[i + 1][0][0].partition(b"-")[0]) if rows[i + 1] else None)
            for i in range(0, len(rows), 2)
        ]

    async def _jobs(self, job_ids: Sequence[str]) -> Sequence[Job | None]:
        return [job for job, _ in await self._outcomes([(job_id, None) for job_id in job_ids])]

    async def _outcomes(self, asks: Sequence[tuple[str, int | None]]) -> Sequence[tuple[Job | None, str | None]]:
        """Jobs, each with the state of the session that is named with it: read after the job was, and None if unknown."""
        partitions = [partition_of_job(job_id, self._partitions) for job_id, _ in asks]
        lanes, sessions = list(set(partitions)), list({session for _, session in asks if session is not None})
        pipeline = self._client.pipeline(transaction=False)
        for partition, (job_id, _) in zip(partitions, asks, strict=True):
            pipeline.get(key(partition, f"job:{job_id}"))
        for partition in lanes:
            pipeline.pttl(key(partition, "doubt"))
        for session in sessions:
            pipeline.mget(self._head_key(session))
        found = await self._execute(pipeline)
        records = zip(asks, found, strict=False)  # the doubts come after them
        jobs = [decode_job(record, job_id) if record else None for (job_id, _), record in records]
        doubts = dict(zip(lanes, found[len(asks) :], strict=False))  # and the heads last
        states = dict(zip(sessions, map(_state, found[len(asks) + len(lanes) :]), strict=True))
        if max(doubts.values()) > 0:
            jobs = await self._believed(jobs, partitions, doubts)
        return [(job, None if session is None else states[session]) for job, (_, session) in zip(jobs, asks, strict=True)]

    async def _believed(
        self, jobs: list[Job | None], partitions: Sequence[int], doubts: dict[int, int]
    ) -> list[Job | None]:
        """Without those that were done when Postgres went back: they expire before the doubt does. The ledger tells of them."""
        pipeline = self._client.pipeline(transaction=False)
        for partition, job in zip(partitions, jobs, strict=True):
            pipeline.pttl(key(partition, f"job:{job.id}" if job is not None else "doubt"))
        left_ms = await self._execute(pipeline)
        return [
            None if job is not None and job.outcome is not None and left <= doubts[partition] else job
            for job, partition, left in zip(jobs, partitions, left_ms, strict=True)
        ]

    async def _heads(self, session_ids: Sequence[int]) -> Sequence[Head | None]:
        pipeline = self._client.pipeline(transaction=False)
        for session_id in session_ids:
            pipeline.mget(self._head_key(session_id))  # a GET would fail where the release before left a hash
        return [_head(found) for found in await self._execute(pipeline)]

    async def _traffic(self, session_ids: Sequence[int]) -> Sequence[Traffic]:
        pipeline = self._client.pipeline(transaction=False)
        for session_id in session_ids:
            partition = partition_of_session(session_id, self._partitions)
            pipeline.mget(self._head_key(session_id))
            pipeline.xlen(key(partition, "mailbox"))
            pipeline.get(key(partition, "pace"))
        rows = await self._execute(pipeline)
        heads = map(_head, rows[::3])
        applied = [0 if head is None else head.now.last_seq for head in heads]
        return [Traffic(*told, float(pace or 0)) for *told, pace in zip(applied, rows[1::3], rows[2::3], strict=True)]

    def _head_key(self, session_id: int) -> str:
        return key(partition_of_session(session_id, self._partitions), f"s:{session_id}")

    async def _execute(self, pipeline: Any) -> list[Any]:
        try:
            return await pipeline.execute()
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc


@lru_cache(maxsize=8192)
def _head_in(partitions: int, session_id: int) -> tuple[int, str]:
    """The partition of a session, and the key of its head."""
    partition = partition_of_session(session_id, partitions)
    return partition, key(partition, f"s:{session_id}")


def _head(found: Sequence[bytes | None]) -> Head | None:
    return None if found[0] is None else read_head(found[0])


def _state(found: Sequence[bytes | None]) -> str | None:
    return None if found[0] is None else read_head(found[0]).now.state


def counts_as_it_is(job: Job, session_state: str | None) -> bool:
    """Whether this is all there is to tell of a decided job; else it takes ApiServices.as_it_counts, or waitlist_position."""
    if job.outcome in OF_ANOTHER:
        return False
    held = (job.reservation, *job.party) if job.reservation else job.party
    if all(one.status == CANCELLED for one in held):
        return True
    return session_state not in (None, CANCELLED) and all(one.status != WAITLISTED for one in held)


class Forecast(Frozen):
    """What would become of a reserve if nobody ahead of it cancelled; it binds nobody."""

    outcome: str
    position: int | None = None


def forecast(head: SessionHead, seq: int, seats: int) -> Forecast | None:
    """From a session's counters, and the commands accepted before this one counted as reserves of one seat each.

    None when a session takes no reservations: what its refusal will be depends on more than counters.
    """
    if head.state != "open":
        return None
    ahead = max(0, seq - head.last_seq - 1)
    free = head.capacity - head.reserved
    if not head.waiting and ahead + seats <= free:
        return Forecast(CONFIRMED)
    waiting_ahead = ahead if head.waiting else max(0, ahead - free)
    position = head.waiting + waiting_ahead + 1
    if position <= head.waitlist_capacity:
        return Forecast(WAITLISTED, position)
    return Forecast(SOLD_OUT)
