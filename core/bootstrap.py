"""Wiring: the only place that builds clients, engines and use cases, for each kind of process. No import does I/O."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from celery import Celery

from core import crashpoints, settings, telemetry
from core.arrangement import Arrangement, Arrangements
from core.batches import SubmitBatch
from core.claims import Claims
from core.door import Door
from core.doorbell import Doorbell, celery_app
from core.erasure import Erasure, Live
from core.errors import NotYetApplied, Rearranging, Unavailable, UnknownSession
from core.follow import Followers
from core.forget import Forget
from core.freshness import Freshness
from core.grouping import Grouped
from core.keys import Keyring
from core.keystore import KeyStore
from core.lanes import Lanes
from core.limits import Limiter, Turnstile
from core.lookout import Lookout
from core.mailbox import Mailbox, connect, connect_async
from core.model import (
    CANCEL,
    CANCELLED,
    OF_ANOTHER,
    WAITLISTED,
    CancelArguments,
    Job,
    manage_token,
    page_token,
    partition_of_session,
)
from core.numbering import Incident
from core.operations import Operations, Overview
from core.phases import PageNow, PageReader, turns
from core.projections import Head, JobNow, Projections, SessionNow
from core.prune import Prune
from core.pulse import Pulse
from core.queries import BatchView, Queries, SessionView
from core.recheck import Recheck
from core.repartition import Repartition
from core.rounds import Rounds
from core.scrub import Scrub
from core.service import Drain, Submit
from core.settings import Settings
from core.settle import Settle
from core.shutter import Shutter
from core.signins import SignIns, of_token
from core.store import Store, create_engine
from core.streams import Feed, Streams, no_prefix, prefix_of_job, prefix_of_session
from core.unknown import REMEMBERED_SECONDS, Unknown, UnknownSessions

log = logging.getLogger(__name__)
Result = TypeVar("Result")

APPLIED_WAIT_SECONDS = 5.0
APPLIED_LOOK_SECONDS = 0.02
LOOK_UP_LIMIT = 256  # jobs, batches or sessions looked up in Postgres in one statement
RECENT_SECONDS = 600  # much longer than what is committed waits to be published
API_THREADS = 4  # that read, and as many connections to Postgres, for each API process
API_WRITING_THREADS = 2  # and as many more: a commit that waits for a standby keeps nobody from reading
WRITE_SECONDS = 10.0
OVERVIEW_SECONDS = 1.0
FULL_BATCHES = 4  # wait before the door slows down: that more wait makes no batch cheaper
WORKER_CONNECTIONS = 1
OWNER_CONNECTIONS = 2
OPERATOR = "operator"  # who asked, in the ledger, when it was nobody's client


def prepare(process: str) -> Settings:
    """The first thing every process does: settings, logging, and crash points if a test armed one."""
    loaded = settings.load()
    telemetry.configure_logging(loaded.log_level, process)
    if loaded.crash_at:
        crashpoints.arm(loaded.crash_at)
    return loaded


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What a Celery worker process or the sweeper needs."""

    settings: Settings
    mailbox: Mailbox
    drain: Drain
    rounds: Rounds
    store: Store
    doorbell: Doorbell
    recheck: Recheck
    arrangements: Arrangements
    lanes: Lanes

    def look_at_lanes(self) -> None:
        """Go by as many partitions as there are now. Raises Unavailable."""
        found = self.arrangements.read()
        self.lanes.now, self.lanes.epoch = found.partitions, found.epoch

    def close(self) -> None:
        """Give connections back."""
        self.doorbell.close()
        self.store.dispose()


def worker_services(
    loaded: Settings, app: Celery | None = None, is_leaving: Callable[[], bool] = lambda: False
) -> WorkerServices:
    """Wire the draining side. Call it after fork: it owns connections. `is_leaving()`: whether the process is asked to end."""
    engine = create_engine(loaded.database_url, WORKER_CONNECTIONS, pre_ping=False)  # a drain is tried again anyway
    store, queries, client = Store(engine), Queries(engine), connect(loaded.redis_url)
    store.deployment(loaded.asked_partitions)
    arrangements = Arrangements(engine)
    lanes = arrangements.read().lanes
    mailbox = Mailbox(client, loaded.job_ttl_seconds)
    doorbell = Doorbell(app or celery_app(loaded.celery_broker))
    drain = Drain(store, mailbox, loaded.batch_size, doorbell.ring)
    rounds = Rounds(drain, Lookout(client), lanes, doorbell.ring, is_leaving=is_leaving)
    recheck = _recheck(lanes, Claims(client, lanes, loaded.job_ttl_seconds), store, queries)
    return WorkerServices(loaded, mailbox, drain, rounds, store, doorbell, recheck, arrangements, lanes)


def pulse(loaded: Settings, kind: str) -> Pulse:
    """The signs of life of one process. Call it after fork: it owns a connection."""
    return Pulse(connect(loaded.redis_url), kind, loaded.partitions)


@dataclass(frozen=True, slots=True)
class OwnerServices:
    """What erasing and restoring need: they run as the owner of the tables, since the app itself may do neither."""

    forget: Forget
    prune: Prune
    recheck: Recheck
    store: Store

    def close(self) -> None:
        """Give connections back."""
        self.store.dispose()


def owner_services(loaded: Settings) -> OwnerServices:
    """Wire what erases and restores. Raises SettingsConflict, NotMigrated or Unavailable; Rearranging, too."""
    if loaded.crash_at:
        crashpoints.arm(loaded.crash_at)
    engine = create_engine(loaded.owner_database, OWNER_CONNECTIONS)
    store, queries = Store(engine), Queries(engine)
    secret = store.deployment(loaded.asked_partitions)
    arrangement = Arrangements(engine).read()
    if arrangement.is_moving:
        raise Rearranging
    lanes = arrangement.lanes
    client = connect(loaded.redis_url)
    drain = Drain(store, Mailbox(client, loaded.job_ttl_seconds), loaded.batch_size, lambda partition: None)
    scrub = Scrub(client, lanes, loaded.job_ttl_seconds)
    settle, erasure = Settle(scrub, drain), Erasure(engine, secret)
    forget = Forget(erasure, scrub, settle, queries.decided, partial(_give_back, loaded), lanes)
    recheck = _recheck(lanes, Claims(client, lanes, loaded.job_ttl_seconds), store, queries)
    return OwnerServices(forget, Prune(erasure, scrub, settle, lanes), recheck, store)


@dataclass(frozen=True, slots=True)
class RepartitionServices:
    """What changing the number of partitions needs; as the owner of the tables."""

    repartition: Repartition
    arrangements: Arrangements
    store: Store

    def close(self) -> None:
        """Give connections back."""
        self.store.dispose()


def repartition_services(loaded: Settings) -> RepartitionServices:
    """Wire what changes the number of partitions. Raises SettingsConflict, NotMigrated or Unavailable."""
    if loaded.crash_at:
        crashpoints.arm(loaded.crash_at)
    engine = create_engine(loaded.owner_database, OWNER_CONNECTIONS)
    store, arrangements, client = Store(engine), Arrangements(engine), connect(loaded.redis_url)
    drain = Drain(store, Mailbox(client, loaded.job_ttl_seconds), loaded.batch_size, lambda partition: None)
    shutter = Shutter(client, loaded.job_ttl_seconds)
    return RepartitionServices(Repartition(arrangements, shutter, drain, Queries(engine).session_ids), arrangements, store)


def _recheck(lanes: Lanes, claims: Claims, store: Store, queries: Queries) -> Recheck:
    return Recheck(claims, queries.versions, queries.decided, store.record_incident, lanes)


def _give_back(loaded: Settings, reservations: Sequence[Live]) -> None:
    """Queue a cancel for each reservation, through the door like anybody's."""

    async def submit() -> None:
        services = ApiServices(loaded)
        try:
            for held in reservations:
                arguments = CancelArguments(held.email, held.email_key, None, held.reservation_id, any_client=True)
                draft = services.submit.draft(CANCEL, held.session_id, arguments, OPERATOR, None)
                await services.submit(draft, arguments)
        finally:
            await services.stop()

    asyncio.run(submit())


class ApiServices:
    """What the API needs: built before the event loop runs, started in it."""

    def __init__(self, loaded: Settings) -> None:
        """Raises SettingsConflict, NotMigrated or Unavailable when Postgres does not agree to be served."""
        self.settings = loaded
        engine = create_engine(loaded.database_url, API_THREADS + API_WRITING_THREADS)
        self.store = Store(engine)
        self.queries = Queries(engine)
        self.keyring = Keyring(partial(self.in_thread, KeyStore(engine).read), self._revoked)
        self._executor = ThreadPoolExecutor(API_THREADS, thread_name_prefix="postgres")
        self._writers = ThreadPoolExecutor(API_WRITING_THREADS, thread_name_prefix="postgres-writes")
        secret = self.store.deployment(loaded.asked_partitions)
        self._arrangements = Arrangements(engine)
        self.lanes = lanes = self._arrangements.read().lanes
        self.doorbell = Doorbell(celery_app(loaded.celery_broker))
        self.redis = connect_async(loaded.redis_url)
        door_client = connect_async(loaded.redis_url, max_connections=1)
        self.operations = Operations(self.redis, lanes)
        self.signins = SignIns(self.redis, secret, self.keyring.holder)
        self.projections = Projections(self.redis, lanes, loaded.job_ttl_seconds)
        told = (self.doorbell.ring, self._redis_went_back)
        enough = FULL_BATCHES * loaded.batch_size
        self.door = door = Door(door_client, lanes, loaded.max_queued, *told, loaded.redis_replicas, enough)
        self._ledger: Grouped[str, Job | None] = Grouped(self._recalled, LOOK_UP_LIMIT)
        self._look: Grouped[None, Arrangement] = Grouped(self._looked, LOOK_UP_LIMIT)
        self._batches: Grouped[str, BatchView | None] = Grouped(self._read_batches, LOOK_UP_LIMIT)
        self.load_head: Grouped[int, bool] = Grouped(self._load_heads, LOOK_UP_LIMIT)
        self._unknown_sessions = UnknownSessions()
        # Redis forgets a finished job later than this, so a job that was accepted after it was looked for is always found.
        self._unknown_jobs: Unknown[str] = Unknown(min(REMEMBERED_SECONDS, loaded.job_ttl_seconds / 2))
        self._unknown_batches: Unknown[str] = Unknown()
        self.submit = Submit(door, self.find_session, self._ledger, secret)
        write_down = partial(self.written, self.store.found_batch)
        self.submit_batch = SubmitBatch(self.submit, write_down, self.known_sessions, secret)
        self.manage_token = partial(manage_token, secret)
        self.page_token = partial(page_token, secret)
        self._subscriber = connect_async(loaded.redis_url, max_connections=1)
        self._positions: Grouped[int, int | None] = Grouped(self._read_positions, LOOK_UP_LIMIT)
        jobs: Feed[str, JobNow] = Feed(self.job_now, prefix_of_job, by_id=True)
        sessions: Feed[int, SessionNow] = Feed(self.session_now, prefix_of_session)
        operating: Feed[str, Overview] = Feed(self._overview, no_prefix, look_again_seconds=OVERVIEW_SECONDS)
        reader = PageReader(self.session_now, partial(self.in_thread, self.queries.session))
        pages: Feed[int, PageNow] = Feed(reader, prefix_of_session, turns=turns)
        self.streams = Streams(jobs, sessions, pages, operating, self._is_valid)
        self.followers = Followers(self._subscriber, self.projections.outcome.post, self.job, self.streams)
        limits_client = connect_async(loaded.redis_url, max_connections=1)
        self.limiter = Limiter(limits_client, loaded.rate_per_key, loaded.rate_per_address)
        words_client = connect_async(loaded.redis_url, max_connections=1)
        self.freshness = Freshness(words_client, lanes)
        self.waits = Turnstile(loaded.max_waits_per_key)
        self._clients = (self.redis, door_client, self._subscriber, limits_client, words_client)
        self._recording: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen for outcomes."""
        self.followers.start()
        self.streams.start()

    async def stop(self) -> None:
        """Close everything, after the last answer."""
        await self.followers.stop()
        await self.streams.stop()
        for client in self._clients:
            await client.aclose()
        await asyncio.to_thread(self.doorbell.close)
        for executor in (self._executor, self._writers):
            executor.shutdown(wait=False, cancel_futures=True)
        self.store.dispose()

    async def in_thread(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a blocking call (psycopg2) that reads, in the bounded executor."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)

    async def written(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """The same for one that commits. Its commit may wait for a standby for as long as that is away: then this raises
        Unavailable, and what it wrote may yet come."""
        under_way = asyncio.get_running_loop().run_in_executor(self._writers, call, *arguments)
        try:
            return await asyncio.wait_for(under_way, WRITE_SECONDS)
        except TimeoutError as exc:
            raise Unavailable("Postgres did not confirm this in time; it may yet come.") from exc

    async def _revoked(self, key_ids: Sequence[str]) -> set[str]:
        return await self.projections.revoked(key_ids)

    async def _recalled(self, job_ids: Sequence[str]) -> Sequence[Job | None]:
        found = await self.in_thread(self.queries.jobs, job_ids)
        await self._announce_recent(found.values())
        return [found.get(job_id) for job_id in job_ids]

    async def _announce_recent(self, jobs: Iterable[Job]) -> None:
        """What the ledger alone says of late may not have been published: whoever is told of it is to find it everywhere."""
        recent_ms = (time.time() - RECENT_SECONDS) * 1000
        sessions = {job.session_id for job in jobs if job.applied_at is not None and job.applied_at > recent_ms}
        await asyncio.gather(*map(self.projections.announce_change, sessions))

    async def job(self, job_id: str) -> Job | None:
        """A job from Redis, else from the ledger."""
        lanes = self.lanes.now
        job = await self.projections.job(job_id)
        if job is None and not self._unknown_jobs.get(job_id):
            job = await self._ledger(job_id)
            if job is None and await self._lanes_changed(lanes):
                job = await self.projections.job(job_id) or await self._ledger(job_id)
            if job is None:
                self._unknown_jobs.add(job_id)
        return job

    async def arrangement(self) -> Arrangement:
        """How many partitions there are, which this process goes by from now on, and whether that is being changed."""
        return await self._look(None)

    async def _lanes_changed(self, before: int) -> bool:
        """Whether there are others by now than those that were looked into."""
        await self._look(None)
        return self.lanes.now != before

    async def _looked(self, asks: Sequence[None]) -> Sequence[Arrangement]:
        found = await self.in_thread(self._arrangements.read)
        self.lanes.now, self.lanes.epoch = found.partitions, found.epoch
        return [found] * len(asks)

    async def batch(self, batch_id: str) -> BatchView | None:
        """A batch, by an id that only whoever sent it can know."""
        if self._unknown_batches.get(batch_id):
            return None
        view = await self._batches(batch_id)
        if view is None:
            self._unknown_batches.add(batch_id)
        return view

    def found_batch(self, batch_id: str) -> None:
        """This batch was sent just now, so it is there."""
        self._unknown_batches.discard(batch_id)

    async def sent_batch(self, batch_id: str) -> BatchView | None:
        """A batch that may have been sent just now, through whichever process."""
        self._unknown_batches.discard(batch_id)
        return await self._batches(batch_id)

    async def _read_batches(self, batch_ids: Sequence[str]) -> Sequence[BatchView | None]:
        found = await self.in_thread(self.queries.batches, batch_ids)
        return [found.get(batch_id) for batch_id in batch_ids]

    async def jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Several jobs, in their order: those that Redis does not have in one read of the ledger."""
        lanes = self.lanes.now
        jobs = await asyncio.gather(*map(self.projections.job, job_ids))
        if None in jobs and await self._lanes_changed(lanes):
            jobs = await asyncio.gather(*map(self.projections.job, job_ids))
        missing = [job_id for job_id, job in zip(job_ids, jobs, strict=True) if job is None]
        found = await self.in_thread(self.queries.jobs, missing) if missing else {}
        await self._announce_recent(found.values())
        return [job or found.get(job_id) for job_id, job in zip(job_ids, jobs, strict=True)]

    async def as_it_counts(self, job: Job) -> Job:
        """The job with its reservations as they are now: those of a cancelled session are cancelled with it; and what was
        reduced or amended may have changed again, which only the ledger says of the job that did so."""
        if job.outcome in OF_ANOTHER:
            return await self.in_thread(self.queries.job, job.id) or job
        held = (job.reservation, *job.party) if job.reservation else job.party
        if all(one.status == CANCELLED for one in held) or not await self._is_cancelled(job.session_id):
            return job
        party = tuple([msgspec.structs.replace(one, status=CANCELLED) for one in job.party])
        one = job.reservation and msgspec.structs.replace(job.reservation, status=CANCELLED)
        return msgspec.structs.replace(job, reservation=one, party=party)

    async def _is_cancelled(self, session_id: int) -> bool:
        head = await self.projections.head(session_id)
        if head is not None:
            return head.now.state == CANCELLED
        view = await self.in_thread(self.queries.session, session_id)
        return view is not None and view.cancelled_at is not None

    async def waitlist_position(self, job: Job) -> int | None:
        """The place of the job's reservation in the waitlist, from 1; None if it does not wait."""
        if job.reservation is None or job.reservation.status != WAITLISTED:
            return None
        return await self._positions(job.reservation.id)

    async def _read_positions(self, reservation_ids: Sequence[int]) -> Sequence[int | None]:
        found = await self.in_thread(self.queries.positions, reservation_ids)
        return [found.get(reservation_id) for reservation_id in reservation_ids]

    async def job_now(self, job_id: str) -> JobNow | None:
        """A job as it stands."""
        job = await self.job(job_id)
        return None if job is None else await self.as_it_stands(job)

    async def as_it_stands(self, job: Job) -> JobNow:
        """A job with what changes about it."""
        if job.outcome is None:
            return JobNow(job, await self.projections.traffic(job.session_id))
        job = await self.as_it_counts(job)
        ended = job.reservation is not None and job.reservation.status == CANCELLED and await self._is_cancelled(job.session_id)
        return JobNow(job, None, await self.waitlist_position(job), ended)

    async def session_now(self, session_id: int) -> SessionNow | None:
        """A session's counters as they stand."""
        head = await self.projections.head(session_id)
        if head is None and await self.find_session(session_id):
            head = await self.projections.head(session_id)
        return None if head is None else SessionNow(session_id, head.version, head.now)

    async def _overview(self, _name: str) -> Overview:
        return await self.operations.overview()

    async def _is_valid(self, token: str) -> bool:
        cookie = of_token(token)
        return await (self.keyring.caller(token) if cookie is None else self.signins.caller(cookie)) is not None

    async def applied(self, session_id: int, seq: int, wait: bool = True) -> None:
        """Wait until the session's command `seq` has been applied. Raises UnknownSession; NotYetApplied after a while, or at once
        if no such command has been accepted, or one may not `wait`."""
        until = time.monotonic() + (APPLIED_WAIT_SECONDS if wait else -1.0)
        while True:
            head = await self.projections.head(session_id)
            if head is None and not await self.find_session(session_id):
                raise UnknownSession
            if head is not None and head.now.last_seq >= seq:
                return
            if time.monotonic() > until or (head is not None and seq > head.queued_seq):  # nobody has sent it yet
                raise NotYetApplied
            await asyncio.sleep(APPLIED_LOOK_SECONDS)

    async def knows_session(self, session_id: int) -> bool:
        """Whether there is such a session: Redis knows it, or else Postgres does."""
        return await self.projections.head(session_id) is not None or await self.find_session(session_id)

    async def known_sessions(self, session_ids: Sequence[int]) -> set[int]:
        """Those of these sessions that there are, each named once: Redis knows them together, or else Postgres does."""
        if session_ids and await self.projections.are_known(session_ids):
            return set(session_ids)
        heads = await self.projections.head.all(session_ids)
        known = {session_id for session_id, head in zip(session_ids, heads, strict=True) if isinstance(head, Head)}
        missing = [session_id for session_id in session_ids if session_id not in known]
        found = await asyncio.gather(*map(self.find_session, missing))
        return known | {session_id for session_id, is_there in zip(missing, found, strict=True) if is_there}

    async def is_unknown(self, session_id: int) -> bool:
        """Whether this session was looked for a moment ago, in vain, and none has been created since."""
        word = self._unknown_sessions.word_of(session_id)
        return word is not None and word == await self.projections.creation()

    async def find_session(self, session_id: int) -> bool:
        """Put a session's head into Redis from Postgres. False if there is no such session."""
        return not await self.is_unknown(session_id) and await self.load_head(session_id)

    async def _load_heads(self, session_ids: Sequence[int]) -> Sequence[bool | Exception]:
        """The heads of those that there are, together; of the others it is remembered that there are none."""
        arrangement = await self._look(None)  # before the sessions: what is read of them is not to be put under later lanes
        if arrangement.is_moving:
            raise Rearranging
        word = await self.projections.creation()
        found, highest = await self.in_thread(self.queries.known_sessions, sorted(set(session_ids)))
        for session_id in session_ids:
            if session_id not in found:
                self._unknown_sessions.add(session_id, highest, word)
        loaded = await asyncio.gather(
            *(self._load_head(view, arrangement.lanes) for view in found.values()), return_exceptions=True
        )
        answers = dict(zip(found, loaded, strict=True))
        return [answers.get(session_id, False) for session_id in session_ids]  # type: ignore[misc]

    async def _load_head(self, view: SessionView, lanes: Lanes) -> bool:
        session_id = view.id
        first_accepted_ms = await self.in_thread(self.queries.first_accepted_ms, session_id) if view.last_seq else 0
        never_seen = await self.projections.put_head(view.decided(), first_accepted_ms, lanes)
        if never_seen and view.last_seq > 0:
            incident = Incident("redis_emptied", session_id, {"last_seq": view.last_seq})
            await self._record(incident, partition_of_session(session_id, lanes))
        return True

    def _redis_went_back(self, partition: int, accepted: int, found: int) -> None:
        incident = Incident("redis_went_back", None, {"accepted": accepted, "found": found})
        task = asyncio.create_task(self._record(incident, partition))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    async def _record(self, incident: Incident, partition: int) -> None:
        """Say it everywhere: log, metrics, Postgres."""
        log.error(incident.kind, extra={"partition": partition, "session_id": incident.session_id, **incident.detail})
        telemetry.INCIDENTS.labels(incident.kind).inc()
        await self.written(self.store.record_incident, incident, partition)
