"""Drives one deployment without HTTP and without Celery: commands through the real door, drains when a test says so."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from core import validation
from core.arrangement import Arrangements
from core.bootstrap import WorkerServices, worker_services
from core.door import Door, Receipt
from core.entries import head_text
from core.errors import Unavailable
from core.mailbox import connect_async, key
from core.model import CANCEL, OF_ANOTHER, RESERVE, Arguments, CancelArguments, Job, ReserveArguments, partition_of_session
from core.projections import Projections
from core.queries import Queries
from core.store import create_engine
from core.submit import Submit
from core.transaction import JOBS_BY_ID, job_of
from ops import verify
from tests.support.heads import head_in
from tests.support.processes import ROOT, python_program
from tests.support.stack import Deployment

Result = TypeVar("Result")
SESSION: dict[str, Any] = {
    "title": "Letterpress",
    "description": "",
    "location": "",
    "start_time": datetime(2031, 5, 1, 18, tzinfo=UTC),
    "end_time": datetime(2031, 5, 1, 20, tzinfo=UTC),
    "capacity": 10,
}
MOST_FAILURES = 20
DRAIN_UNTIL_EMPTY = """
import sys
from core.bootstrap import prepare, worker_services
services = worker_services(prepare("worker"))
while services.drain(int(sys.argv[1])):
    pass
"""
TAKE_TURNS = """
import sys
from core.bootstrap import prepare, worker_services
services = worker_services(prepare("worker"))
services.drain.round([[int(sys.argv[1])]] * 4)
"""


class Rung:
    """A doorbell that only remembers."""

    def __init__(self) -> None:
        self.partitions: list[int] = []

    def __call__(self, partition: int) -> None:
        self.partitions.append(partition)


class Driver:
    """Close it, or use it in a `with`."""

    def __init__(self, deployment: Deployment, ring: Callable[[int], None] | None = None, **settings: Any) -> None:
        """`ring` takes the place of the doorbell that only remembers; `settings` override those of the deployment."""
        self.deployment = deployment
        self.settings = deployment.settings(**settings)
        self.redis = deployment.redis()
        self.worker: WorkerServices = worker_services(self.settings)
        self.drain = self.worker.drain
        self.lanes = self.worker.lanes
        self.rung = Rung()
        self._engine = create_engine(self.settings.database_url, 2)
        self.queries = Queries(self._engine)
        self._arrangements = Arrangements(self._engine)
        self._loop = asyncio.new_event_loop()
        self._client = connect_async(self.settings.redis_url)
        self.projections = Projections(self._client, self.lanes, self.settings.job_ttl_seconds)
        secret = self.worker.store.deployment(self.settings.partitions)
        self.went_back: list[tuple[int, ...]] = []
        told = (ring or self.rung, self._notice)
        door = Door(self._client, self.lanes, self.settings.max_queued, *told, self.settings.redis_replicas)
        self.submit = Submit(door, self._load_head, self._recall, secret)

    def _notice(self, *what: int) -> None:
        self.went_back.append(what)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()
        self._engine.dispose()
        self.worker.close()

    # -- what a client does ----------------------------------------------------------------------------------------------

    def new_session(self, capacity: int = 10, **fields: Any) -> int:
        """Create a session. Its id."""
        return self.worker.store.create_session({**SESSION, "capacity": capacity, **fields}, "open")

    def reserve(self, session: int, *names: str, key: str | None = None) -> list[Receipt]:
        """One reserve for each name, sent at once."""
        return self.accept([(RESERVE, session, person(name)) for name in names], key)

    def cancel(self, session: int, *names: str) -> list[Receipt]:
        """One cancel for each name, sent at once."""
        return self.accept([(CANCEL, session, CancelArguments(*validation.email(f"{name}@example.org"))) for name in names])

    def accept(self, wanted: Iterable[tuple[str, int, Arguments]], key: str | None = None) -> list[Receipt]:
        """Pass commands through the door in one group, in this order. Raises what the first one that fails raises."""
        return self._loop.run_until_complete(self._accept(list(wanted), key))

    async def _accept(self, wanted: list[tuple[str, int, Arguments]], key: str | None) -> list[Receipt]:
        for session in {session for _, session, _ in wanted}:  # so that no command has to come back, behind the others
            if await self.projections.head(session) is None:
                await self._load_head(session)
        drafts = [self.submit.draft(kind, session, arguments, "open", key) for kind, session, arguments in wanted]
        calls = [self.submit(draft, arguments, key is not None) for draft, (_, _, arguments) in zip(drafts, wanted, strict=True)]
        return await asyncio.gather(*calls)

    async def _recall(self, job_id: str) -> Job | None:
        return self.queries.job(job_id)

    async def _load_head(self, session: int) -> bool:
        arrangement = self._arrangements.read()  # on connections of its own: the drain may be at work on the worker's
        self.lanes.now, self.lanes.epoch = arrangement.partitions, arrangement.epoch
        view = self.queries.session(session)
        if view is None:
            return False
        await self.projections.put_head(view.decided(), self.queries.first_accepted_ms(session))
        return True

    def job(self, job_id: str) -> Job | None:
        """A job as the API reads it: from Redis, else from the ledger; see ApiServices.as_it_counts."""
        return self.jobs([job_id])[0]

    def outcomes(self, receipts: Iterable[Receipt]) -> list[str | None]:
        """What became of commands, in their order."""
        return [job.outcome if job else "lost" for job in self.jobs([receipt.job.id for receipt in receipts])]

    def jobs(self, job_ids: list[str]) -> list[Job | None]:
        """Many of them, in a handful of round trips."""
        cached = self._loop.run_until_complete(self._cached(job_ids))
        ledger = self._in_ledger(job_ids)
        views = {session: self.queries.session(session) for session in {job.session_id for job in cached if job}}
        cancelled = {session for session, view in views.items() if view is not None and view.cancelled_at is not None}
        current = [job is not None and job.outcome not in OF_ANOTHER and job.session_id not in cancelled for job in cached]
        return [
            job if is_current else ledger.get(job_id, job)
            for job_id, job, is_current in zip(job_ids, cached, current, strict=True)
        ]

    async def _cached(self, job_ids: list[str]) -> list[Job | None]:
        return await asyncio.gather(*(self.projections.job(job_id) for job_id in job_ids))

    def _in_ledger(self, job_ids: list[str]) -> dict[str, Job]:
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(JOBS_BY_ID, (job_ids,)).fetchall()
        return {job.id: job for job, _ in map(job_of, rows)}

    # -- what workers do -------------------------------------------------------------------------------------------------

    def partition(self, session: int) -> int:
        """The lane of a session."""
        return partition_of_session(session, self.lanes)

    def drain_all(self) -> int:
        """Drain every partition until it is empty. How many commands were dealt with."""
        return sum(self._drained(partition) for partition in range(self.lanes))

    def can_drain_all(self) -> bool:
        """The same as a condition to wait for: False while Postgres or Redis cannot serve."""
        try:
            self.drain_all()
        except Unavailable:
            return False
        return True

    def drain_through_failures(self, session: int) -> int:
        """Drain the session's partition again after each failure, as workers and the sweeper do. How often it failed."""
        failures = 0
        while self.waiting(session):
            try:
                self.drain(self.partition(session))
            except Exception:
                failures += 1
                assert failures < MOST_FAILURES, "the mailbox is blocked"
        return failures

    def _drained(self, partition: int) -> int:
        total = 0
        while count := self.drain(partition):
            total += count
        return total

    def drain_in_a_process(self, partition: int, crash_at: str | None = None) -> int:
        """Drain in a process of its own, which may be told to die somewhere. Its exit status; a signal's is negative."""
        return start_drain(self.deployment, partition, crash_at).wait(30)

    def waiting(self, session: int) -> int:
        """How many commands wait in the session's mailbox."""
        return self.redis.xlen(key(self.partition(session), "mailbox"))

    # -- what must hold --------------------------------------------------------------------------------------------------

    def check(self, receipts: Iterable[Receipt] = ()) -> verify.Report:
        """After everything is drained: all accepted commands have their outcome, and everything agrees with the ledger."""
        assert [self.redis.xlen(key(p, "mailbox")) for p in range(self.lanes)] == [0] * self.lanes.now
        job_ids = [receipt.job.id for receipt in receipts]
        ledger = self._in_ledger(job_ids)
        for job_id, job in zip(job_ids, self.jobs(job_ids), strict=True):
            assert job is not None, f"job {job_id} is lost"
            assert job.outcome is not None, f"job {job_id} is still queued"
            assert ledger.get(job_id) == job
        for name in self.redis.scan_iter("aforo:*:job:*"):
            assert self.redis.getrange(name, 0, 0) == b"d", f"{name!r} says queued, and nothing is"
        self._compare_heads()
        report = self.report()
        assert report.differences == []
        return report

    def _compare_heads(self) -> None:
        """With nothing on its way, Redis's counters are Postgres's, its numbering goes on where the ledger ends, and they
        will be forgotten when nobody asks for them."""
        for name in self.redis.scan_iter("aforo:*:s:*"):
            view = self.queries.session(int(name.rpartition(b":")[2]))
            assert view is not None, f"{name!r} is of no session"
            told = head_in(self.redis, name)
            assert " ".join(told[field] for field in "vacrwls") == head_text(view.decided()), f"{name!r} is not what Postgres has"
            assert told["q"] == str(view.last_seq)
            assert self.redis.ttl(name) > 0

    def report(self) -> verify.Report:
        """What `aforo verify` says."""
        return verify.run(self.settings.database_url, self.settings.redis_url)

    def counts(self, session: int) -> tuple[int, int]:
        """(reserved, last seq), and they are the same in Postgres and, where it is there, in Redis."""
        view = self.queries.session(session)
        assert view is not None
        head = head_in(self.redis, key(self.partition(session), f"s:{session}"))
        if head:
            assert (int(head["r"]), int(head["a"])) == (view.reserved, view.last_seq)
        return view.reserved, view.last_seq


def person(name: str, seats: int = 1) -> ReserveArguments:
    """Somebody with that name."""
    email, email_key = validation.email(f"{name}@example.org")
    return ReserveArguments(name.title(), email, email_key, seats)


def together(*calls: Callable[[], Result]) -> list[Result]:
    """Make the calls at the same moment, each from a thread of its own. Their results, in order; raises what one raised."""
    start = threading.Barrier(len(calls), timeout=30)

    def made(call: Callable[[], Result]) -> Result:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(made, calls))


def start_drain(
    deployment: Deployment, partition: int, crash_at: str | None = None, program_text: str = DRAIN_UNTIL_EMPTY, **settings: str
) -> subprocess.Popen[bytes]:
    """Start a process that drains one partition until it is empty, or does with it what the text of another program says."""
    armed = {} if crash_at is None else {"AFORO_CRASH_AT": crash_at}
    program = python_program("drain", {**deployment.environment, **settings, **armed}, "-c", program_text, str(partition))
    return subprocess.Popen(program.command, env=program.environment, cwd=ROOT, stderr=subprocess.DEVNULL)


def state_of(pid: int) -> str:
    """What a process does: T when stopped, Z when dead and not yet buried, '' when gone."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False)
    return shown.stdout.strip()[:1]


KILLED = -signal.SIGKILL
