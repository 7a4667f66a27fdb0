"""Wiring: the only place that builds clients, engines and use cases, for each kind of process. No import does I/O."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from celery import Celery

from core import crashpoints, settings, telemetry
from core.arrangement import Arrangements, SharedLook
from core.batches import SentBatches, SubmitBatch, WrittenDown
from core.claims import Claims
from core.door import Door
from core.doorbell import Doorbell, celery_app
from core.erasure import Erasure, Live
from core.errors import Rearranging
from core.follow import Followers
from core.forget import Forget
from core.freshness import Freshness
from core.heads import Heads
from core.incidents import Incidents
from core.jobs import Jobs
from core.keys import Keyring
from core.keystore import KeyStore
from core.lanes import Lanes
from core.limits import Limiter, Turnstile
from core.lookout import Lookout
from core.mailbox import Mailbox, connect, connect_async
from core.model import CANCEL, CancelArguments, manage_token, page_token
from core.operations import Operations, Overview
from core.phases import PageNow, PageReader, turns
from core.projections import JobNow, Projections, SessionNow
from core.prune import Prune
from core.pulse import Pulse
from core.queries import Queries
from core.recheck import Recheck
from core.repartition import Repartition
from core.rounds import Rounds
from core.scrub import Scrub
from core.service import Drain
from core.settings import Settings
from core.settle import Settle
from core.shutter import Shutter
from core.signins import SignIns, of_token
from core.store import Store, create_engine
from core.streams import Feed, Streams, no_prefix, prefix_of_job, prefix_of_session
from core.submit import Submit
from core.threads import READING, WRITING, Threads

log = logging.getLogger(__name__)

OVERVIEW_SECONDS = 1.0
FULL_BATCHES = 4  # wait before the door slows down: that more wait makes no batch cheaper
WORKER_CONNECTIONS = 1
OWNER_CONNECTIONS = 2
OPERATOR = "operator"  # who asked, in the ledger, when it was nobody's client


def prepare(process: str) -> Settings:
    """The first thing every process does: settings, logging, and crash points if a test armed one."""
    loaded = settings.load()
    telemetry.configure_logging(loaded.log_level, process)
    for line in settings.strangers(os.environ):
        log.warning("unknown_setting", extra={"reason": line})
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
        engine = create_engine(loaded.database_url, READING + WRITING)
        self.store = Store(engine)
        self.queries = queries = Queries(engine)
        self._threads = threads = Threads()
        self.in_thread, self.written = threads.read, threads.write
        self.keyring = Keyring(partial(threads.read, KeyStore(engine).read), self._revoked)
        secret = self.store.deployment(loaded.asked_partitions)
        arrangements = Arrangements(engine)
        self.lanes = lanes = arrangements.read().lanes
        self.arrangement = look = SharedLook(partial(threads.read, arrangements.read), lanes)
        self.doorbell = Doorbell(celery_app(loaded.celery_broker))
        self.redis = connect_async(loaded.redis_url)
        door_client = connect_async(loaded.redis_url, max_connections=1)
        self.operations = Operations(self.redis, lanes)
        self.signins = SignIns(self.redis, secret, self.keyring.holder)
        self.projections = Projections(self.redis, lanes, loaded.job_ttl_seconds)
        incidents = Incidents(partial(threads.write, self.store.record_incident))
        told = (self.doorbell.ring, incidents.redis_went_back)
        enough = FULL_BATCHES * loaded.batch_size
        self.door = door = Door(door_client, lanes, loaded.max_queued, *told, loaded.redis_replicas, enough)
        self.heads = heads = Heads(self.projections, queries, threads, look, incidents.record)
        self.jobs = Jobs(self.projections, queries, threads, look, loaded.job_ttl_seconds)
        self.batches = SentBatches(queries, threads)
        self.submit = Submit(door, heads.find, self.jobs.in_ledger, secret)
        write_down = WrittenDown(self.store.found_batches, threads)
        self.submit_batch = SubmitBatch(self.submit, write_down, heads.known, secret)
        self.manage_token = partial(manage_token, secret)
        self.page_token = partial(page_token, secret)
        self._subscriber = connect_async(loaded.redis_url, max_connections=1)
        jobs: Feed[str, JobNow] = Feed(self.jobs.now, prefix_of_job, by_id=True)
        sessions: Feed[int, SessionNow] = Feed(heads.now, prefix_of_session)
        operating: Feed[str, Overview] = Feed(self._overview, no_prefix, look_again_seconds=OVERVIEW_SECONDS)
        reader = PageReader(heads.now, partial(threads.read, queries.session))
        pages: Feed[int, PageNow] = Feed(reader, prefix_of_session, turns=turns)
        self.streams = Streams(jobs, sessions, pages, operating, self._is_valid)
        self.followers = Followers(self._subscriber, self.projections.outcome.post, self.jobs.find, self.streams)
        limits_client = connect_async(loaded.redis_url, max_connections=1)
        self.limiter = Limiter(limits_client, loaded.rate_per_key, loaded.rate_per_address)
        words_client = connect_async(loaded.redis_url, max_connections=1)
        self.freshness = Freshness(words_client, lanes)
        self.waits = Turnstile(loaded.max_waits_per_key)
        self._clients = (self.redis, door_client, self._subscriber, limits_client, words_client)

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
        self._threads.close()
        self.store.dispose()

    async def _revoked(self, key_ids: Sequence[str]) -> set[str]:
        return await self.projections.revoked(key_ids)

    async def _overview(self, _name: str) -> Overview:
        return await self.operations.overview()

    async def _is_valid(self, token: str) -> bool:
        cookie = of_token(token)
        return await (self.keyring.caller(token) if cookie is None else self.signins.caller(cookie)) is not None
