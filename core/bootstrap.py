"""Wiring: the only place that builds clients, engines and use cases, for each kind of process. No import does I/O."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from celery import Celery

from core import crashpoints, settings, telemetry
from core.decide import Incident
from core.doorbell import Doorbell, celery_app
from core.follow import Followers
from core.mailbox import Door, Mailbox, connect, connect_async
from core.model import Job, partition_of_session
from core.projections import Projections
from core.queries import Queries
from core.service import Drain, Submit
from core.settings import Settings
from core.store import Store, create_engine

log = logging.getLogger(__name__)
Result = TypeVar("Result")

API_THREADS = 4  # and as many connections to Postgres, for each API process
WORKER_CONNECTIONS = 1


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
    store: Store
    doorbell: Doorbell

    def close(self) -> None:
        """Give connections back."""
        self.doorbell.close()
        self.store.dispose()


def worker_services(loaded: Settings, app: Celery | None = None) -> WorkerServices:
    """Wire the draining side. Call it after fork: it owns connections."""
    store = Store(create_engine(loaded.database_url, WORKER_CONNECTIONS, pre_ping=False))  # a drain is tried again anyway
    store.deployment(loaded.partitions)
    mailbox = Mailbox(connect(loaded.redis_url), loaded.job_ttl_seconds)
    doorbell = Doorbell(app or celery_app(loaded.celery_broker))
    drain = Drain(store, mailbox, loaded.batch_size, doorbell.ring)
    return WorkerServices(loaded, mailbox, drain, store, doorbell)


class ApiServices:
    """What the API needs: built before the event loop runs, started in it."""

    def __init__(self, loaded: Settings) -> None:
        """Raises SettingsConflict, NotMigrated or Unavailable when Postgres does not agree to be served."""
        self.settings = loaded
        engine = create_engine(loaded.database_url, API_THREADS)
        self.store = Store(engine)
        self.queries = Queries(engine)
        self._executor = ThreadPoolExecutor(API_THREADS, thread_name_prefix="postgres")
        secret = self.store.deployment(loaded.partitions)
        self.doorbell = Doorbell(celery_app(loaded.celery_broker))
        self.redis = connect_async(loaded.redis_url)
        door_client = connect_async(loaded.redis_url, max_connections=1)
        self.projections = Projections(self.redis, loaded.partitions)
        door = Door(door_client, loaded.partitions, loaded.max_queued, self.doorbell.ring)
        self.submit = Submit(door, self.load_head, secret)
        self._subscriber = connect_async(loaded.redis_url, max_connections=1)
        self.followers = Followers(self._subscriber, self.job)
        self._clients = (self.redis, door_client, self._subscriber)
        self._loading: dict[int, asyncio.Task[bool]] = {}

    async def start(self) -> None:
        """Begin to listen for outcomes."""
        self.followers.start()

    async def stop(self) -> None:
        """Close everything, after the last answer."""
        await self.followers.stop()
        for client in self._clients:
            await client.aclose()
        await asyncio.to_thread(self.doorbell.close)
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.store.dispose()

    async def in_thread(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a blocking call (psycopg2) in the bounded executor."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)

    async def job(self, job_id: str) -> Job | None:
        """A job from Redis, else from the ledger."""
        job = await self.projections.job(job_id)
        return job if job is not None else await self.in_thread(self.queries.job, job_id)

    async def load_head(self, session_id: int) -> bool:
        """Put a session's head into Redis from Postgres, once for all who ask meanwhile. False if there is no session."""
        task = self._loading.get(session_id)
        if task is None:
            task = asyncio.create_task(self._load_head(session_id))
            self._loading[session_id] = task
            task.add_done_callback(lambda _: self._loading.pop(session_id, None))
        return await asyncio.shield(task)

    async def _load_head(self, session_id: int) -> bool:
        view = await self.in_thread(self.queries.session, session_id)
        if view is None:
            return False
        never_seen = await self.projections.put_head(view.head())
        if never_seen and view.last_seq > 0:
            incident = Incident("redis_emptied", session_id, {"last_seq": view.last_seq})
            log.error(incident.kind, extra={"session_id": session_id, **incident.detail})
            telemetry.INCIDENTS.labels(incident.kind).inc()
            partition = partition_of_session(session_id, self.settings.partitions)
            await self.in_thread(self.store.record_incident, incident, partition)
        return True
