"""The bench's stage: one Postgres and one Valkey with the settings of `aforo up`, Aforo on them, and its peers beside it.

Each has a database of its own, made from the same migrated template. What is not being measured runs idle. Nothing here lasts:
`close` kills all that was started.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

from core.mailbox import ERA_KEY, connect_async, key
from core.model import Session, partition_of_session
from core.projections import Projections
from core.settings import Settings
from ops import localstack
from ops.supervisor import Program
from tests.bench.data import Block, Books
from tests.support.processes import Running, answers, children_of, python_program, sweeper_program, worker_program
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until

GUNICORN = ("-m", "gunicorn", "--config", "python:api.server")
API = "api.app:create_app_from_environment()"
FLOORS = {"floor": "tests.bench.peers.floor:bare", "falcon": "tests.bench.peers.floor:with_falcon()"}
PEER_THREADS = 8
PEER_PROCESSES = 2
TASK_PROCESSES = 4
START_SECONDS = 60.0
DRAINED_SECONDS = 60.0
POLL_SECONDS = 0.005
HEADS_AT_ONCE = 128
LOG_BYTES = 64 * 2**20

POSTGRES_SHOWN = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers",
                  "max_wal_size", "wal_compression", "autovacuum")  # fmt: skip
VALKEY_SHOWN = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy", "save", "io-threads")
AFORO_SHOWN = ("api_processes", "worker_processes", "partitions", "batch_size", "max_queued", "auth", "log_level",
               "job_ttl_seconds")  # fmt: skip
REQUIRED = {
    "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
    "appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no", "maxmemory-policy": "noeviction",
}  # fmt: skip


class BenchFailed(Exception):
    """What was measured is worth nothing; the message says why."""


class Process:
    """A program under measure, and its log kept short."""

    def __init__(self, program: Program, folder: Path) -> None:
        self._running = Running(program, folder)

    @property
    def pid(self) -> int:
        """Of its first process, which is also its group's id."""
        return self._running.pid

    def pids(self) -> list[int]:
        """Of all its processes."""
        return [self.pid, *children_of(self.pid)]

    def trim(self) -> None:
        """Forget what it logged."""
        if self._running.log.stat().st_size > LOG_BYTES:
            os.truncate(self._running.log, 0)

    def signal(self, number: signal.Signals) -> None:
        """To all its processes."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._running.kill()


class Aforo:
    """Aforo on a deployment: gunicorn, a Celery worker with some processes, the sweeper."""

    def __init__(self, deployment: Deployment, folder: Path, name: str, settings: dict[str, str]) -> None:
        self.deployment = deployment
        self.books = Books(deployment)
        self.redis = deployment.redis()
        self._folder, self._name = folder, name
        self._known: list[Block] = []
        self._metrics = folder / f"metrics-{name}"
        self.url, self.environment = deployment.at_an_address(self._metrics, **{"log_level": "info", **settings})
        known = {name.removeprefix("AFORO_").lower(): value for name, value in self.environment.items()}
        self.settings = Settings(**known)
        api = python_program(f"api-{name}", self.environment, *GUNICORN, API)
        self.api = self._start(replace(api, is_ready=lambda: answers(f"{self.url}/readyz")))
        self.sweeper = self._start(sweeper_program(self.environment))
        self.worker_processes = 0
        self.worker: Process | None = None
        self.work_with(self.settings.worker_processes)

    def _start(self, program: Program) -> Process:
        name = program.name if program.name.endswith(self._name) else f"{program.name}-{self._name}"
        return Process(replace(program, name=name), self._folder)

    def work_with(self, processes: int) -> None:
        """Run one Celery worker with so many processes."""
        if processes == self.worker_processes:
            return
        if self.worker is not None:
            self.worker.kill()
        worker = self._start(worker_program(self.environment, processes))
        until(lambda: len(children_of(worker.pid)) >= processes, START_SECONDS, "the worker has its processes")
        self.worker, self.worker_processes = worker, processes

    @contextmanager
    def halted(self, *names: str) -> Iterator[None]:
        """The processes of these names do nothing meanwhile."""
        halted = [self.processes()[name] for name in names]
        for process in halted:
            process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in halted:
                process.signal(signal.SIGCONT)

    def processes(self) -> dict[str, Process]:
        """By name."""
        assert self.worker is not None
        return {"API": self.api, "worker": self.worker, "sweeper": self.sweeper}

    def new_sessions(self, count: int) -> Block:
        """Empty tables but for so many new sessions, whose heads Redis has, as after the first request to each."""
        self.forget()
        self.books.emptied()
        block = self.books.sessions(count)
        self.know(block)
        return block

    def know(self, *blocks: Block) -> None:
        """Put the heads of these sessions into Redis, as if it had seen all that they have."""
        self._known += blocks
        heads = [head for block in blocks for head in self.books.heads(block)]
        asyncio.run(self._put_heads(heads))

    def forget(self) -> None:
        """Take the heads of sessions of before out of Redis, where they would expire while something else is measured."""
        pipeline = self.redis.pipeline(transaction=False)
        for block in self._known:
            for session_id in range(block.first, block.last + 1):
                pipeline.delete(key(partition_of_session(session_id, self.settings.partitions), f"s:{session_id}"))
        pipeline.set(ERA_KEY, time.time())  # what the API keeps of them, too
        pipeline.execute()
        self._known.clear()

    async def _put_heads(self, heads: list[tuple[Any, ...]]) -> None:
        client = connect_async(self.deployment.redis_url, max_connections=HEADS_AT_ONCE)
        projections = Projections(client, self.settings.partitions, self.settings.job_ttl_seconds)
        sessions = (Session(head[0], head[1], reserved=head[2], last_seq=head[3], version=head[4]) for head in heads)
        try:
            while some := list(itertools.islice(sessions, HEADS_AT_ONCE)):
                await asyncio.gather(*(projections.put_head(session, 0) for session in some))
        finally:
            await client.aclose()

    def applied(self, block: Block) -> int:
        """Commands of these sessions in the ledger."""
        return self.books.applied(block)

    def waiting(self) -> int:
        """How many commands wait in all mailboxes."""
        pipeline = self.redis.pipeline(transaction=False)
        for partition in range(self.settings.partitions):
            pipeline.xlen(key(partition, "mailbox"))
        return sum(pipeline.execute())

    def drained(self) -> float:
        """Wait until nothing waits. When that was, on the monotonic clock."""
        return wait_until_none(self.waiting)

    def trim(self) -> None:
        """Keep logs short."""
        for process in self.processes().values():
            process.trim()

    def close(self) -> None:
        """Kill everything."""
        for process in self.processes().values():
            process.signal(signal.SIGCONT)
            process.kill()
        self.books.close()
        self.redis.close()


class Queued:
    """The peer with a task for each request."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.books = Books(deployment)
        self._redis = deployment.redis()
        environment = {"PEER_DATABASE_URL": deployment.owner_url, "PEER_BROKER_URL": deployment.redis_owner_url}
        self.url, api = _threaded("queued-api", environment, "tests.bench.peers.queued:create_app()")
        celery = ("-m", "celery", "--app", "tests.bench.peers.queued:app", "worker", "--loglevel", "WARNING")
        worker = python_program("queued-worker", environment, *celery, "--concurrency", str(TASK_PROCESSES))
        self._processes = [Process(program, folder) for program in (api, worker)]
        until(lambda: len(self._processes[1].pids()) > TASK_PROCESSES, START_SECONDS, "the tasks' worker has its processes")

    def new_sessions(self, count: int) -> Block:
        """Empty tables but for so many new sessions."""
        self.books.emptied()
        return self.books.sessions(count)

    def applied(self, block: Block) -> int:
        """Requests carried out."""
        return self.books.applied(block)

    def drained(self) -> float:
        """Wait until no task waits or is under way. When that was, on the monotonic clock."""
        return wait_until_none(lambda: self._redis.llen("celery") + self._redis.hlen("unacked"))

    def close(self) -> None:
        """Kill everything."""
        for process in self._processes:
            process.kill()
        self.books.close()


class Direct:
    """The peer that takes the lock while the client waits."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.books = Books(deployment)
        environment = {"PEER_DATABASE_URL": deployment.owner_url, "PEER_THREADS": str(PEER_THREADS)}
        self.url, api = _threaded("direct-api", environment, "tests.bench.peers.direct:create_app()")
        self._process = Process(api, folder)

    def new_sessions(self, count: int) -> Block:
        """Empty tables but for so many new sessions."""
        self.books.emptied()
        return self.books.sessions(count)

    def applied(self, block: Block) -> int:
        """Requests carried out."""
        return self.books.applied(block)

    def drained(self) -> float:
        """Nothing ever waits."""
        return time.monotonic()

    def close(self) -> None:
        """Kill everything."""
        self._process.kill()
        self.books.close()


@dataclass(slots=True)
class Floor:
    """An empty 202 on the API's own server."""

    url: str
    process: Process


class Stage:
    """Everything that is measured. Close it."""

    def __init__(self, folder: Path, settings: dict[str, str], *, peers: bool) -> None:
        self._open = ExitStack()
        self.folder = folder
        self.floors: dict[str, Floor] = {}
        try:
            self.servers = Servers(folder, int(settings.get("partitions", Settings.model_fields["partitions"].default)))
            self._open.callback(self.servers.close)
            self.aforo = self.another("aforo", settings)
            self._peers = self._open.enter_context(ExitStack())
            if peers:
                self._start_peers()
        except BaseException:
            self.close()
            raise

    def another(self, name: str, settings: dict[str, str]) -> Aforo:
        """One more Aforo on the same servers, with a database and a Redis database of its own."""
        aforo = Aforo(self.servers.deployment(), self.folder, name, settings)
        self._open.callback(aforo.close)
        return aforo

    def _start_peers(self) -> None:
        self.queued = Queued(self.servers.deployment(), self.folder)
        self._peers.callback(self.queued.close)
        self.direct = Direct(self.servers.deployment(), self.folder)
        self._peers.callback(self.direct.close)
        locks = self.servers.deployment()
        self.locks_url = locks.owner_url
        self.locks, self.setwise = Books(locks), Books(self.servers.deployment())
        for name, application in FLOORS.items():
            port = localstack.free_port()
            environment = {**self.aforo.environment, "AFORO_PORT": str(port)}
            program = python_program(name, environment, *GUNICORN, application)
            url = f"http://{localstack.HOST}:{port}"
            self.floors[name] = Floor(url, Process(_ready_when_it_answers(program, url), self.folder))
            self._peers.callback(self.floors[name].process.kill)

    def end_peers(self) -> None:
        """From here on Aforo is alone on the machine."""
        self._peers.close()

    def settle(self) -> None:
        """Between two measurements: dirty pages written, the append-only file rewritten where it is due soon, logs short."""
        self.aforo.books.rows("CHECKPOINT")
        redis = self.aforo.redis
        found = redis.info("persistence")
        if found["aof_current_size"] > 32 * 2**20 and found["aof_current_size"] > 1.3 * found["aof_base_size"]:
            with suppress(ResponseError):  # it has begun by itself
                redis.bgrewriteaof()
            until(lambda: not redis.info("persistence")["aof_rewrite_in_progress"], DRAINED_SECONDS, "the AOF is rewritten")
        self.aforo.trim()

    def tidy_up(self) -> None:
        """Settle, and have done what Postgres would come to by itself for what was written, at a time of its own choosing."""
        self.settle()
        self.aforo.books.rows("VACUUM ANALYZE sessions, reservations, jobs")

    def settings(self) -> dict[str, dict[str, str]]:
        """What this runs with, read back from the servers. Raises BenchFailed where durability is not what it must be."""
        postgres = {name: self.aforo.books.rows(f"SHOW {name}")[0][0] for name in POSTGRES_SHOWN}
        redis = self.aforo.redis
        valkey = {"version": redis.info("server").get("valkey_version", redis.info("server")["redis_version"])}
        valkey |= {name: str(redis.config_get(name).get(name, "")) for name in VALKEY_SHOWN}
        aforo = {name: str(getattr(self.aforo.settings, name)) for name in AFORO_SHOWN}
        for name, value in REQUIRED.items():
            found = {**postgres, **valkey}[name]
            if found != value:
                raise BenchFailed(f"{name} is {found}, and a measurement without {value} is worth nothing")
        return {"Postgres": postgres, "Valkey": valkey, "Aforo": {**aforo, "metrics": "on"}}

    def roots(self) -> dict[str, int]:
        """First processes of all that belongs to Aforo, by name."""
        own = {name: process.pid for name, process in self.aforo.processes().items()}
        return {**own, "Postgres": self.servers.postgres.pid, "Valkey": self.servers.valkey.pid}

    def close(self) -> None:
        """Kill everything."""
        self._open.close()


def _threaded(name: str, environment: dict[str, str], application: str) -> tuple[str, Program]:
    """A WSGI application on gunicorn with threads, which keeps connections alive, as its sync workers do not."""
    port = localstack.free_port()
    bind = f"{localstack.HOST}:{port}"
    options = ("-k", "gthread", "-w", str(PEER_PROCESSES), "--threads", str(PEER_THREADS), "--keep-alive", "60", "-b", bind)
    program = python_program(name, environment, "-m", "gunicorn", "--log-level", "warning", *options, application)
    return f"http://{bind}", _ready_when_it_answers(program, f"http://{bind}")


def _ready_when_it_answers(program: Program, url: str) -> Program:
    return replace(program, is_ready=lambda: answers(url, anything=True))


def wait_until_none(waiting: Any) -> float:
    """Wait until `waiting()` is 0. When it was, on the monotonic clock. Raises BenchFailed when that takes too long."""
    deadline = time.monotonic() + DRAINED_SECONDS
    while left := waiting():
        if time.monotonic() > deadline:
            raise BenchFailed(f"{left} commands still wait after {DRAINED_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic()
