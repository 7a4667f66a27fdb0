"""A whole deployment in one thread: the real `Submit`, `Door`, `Drain`, `Mailbox` and sweeper over Redis and Postgres in memory.

Every process is an `Actor`, which runs until the next place where another may come in between, and then waits for its turn;
whoever gives the turns decides what happens, and can throw a fault at it instead. Time passes only when it is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import greenlet

from core import crashpoints, mailbox, service
from core.door import GROUP_LIMIT, Door, Receipt
from core.errors import AforoError, Unavailable
from core.exchange import Command, Exchange, Sent
from core.heads import Heads
from core.lanes import Lanes
from core.mailbox import Mailbox
from core.model import Arguments, Job, Session, partition_of_session
from core.numbering import Incident
from core.projections import Projections
from core.service import Drain
from core.submit import Submit
from tests.sim.postgres_in_memory import MemoryStore
from tests.sim.redis_in_memory import AsyncMemoryRedis, MemoryRedis
from worker.sweeper import sweep

BEGIN_MS = 1_900_000_000_000
TRANSACTION_MS = 3000  # how long a transaction may stand still; see core.store
POISON = "poison@example.org"
WORKER_POINTS = ("after_read", "mid_transaction", "before_commit", "after_commit", "between_publishes", "after_publish")
REDIS_PLACES = frozenset({"accept", "take", "narrow", "name", "publish", "look", "doubt", "forgive", "head"})
POSTGRES_PLACES = frozenset({"lock", "commit"})
LOSSY_PLACES = frozenset({"accept", "take", "narrow", "name", "publish", "head", "commit"})  # a reply may be lost here


class Crash(BaseException):
    """A process is killed here."""


class Poisoned(Exception):
    """What a worker raises over a command that it cannot stand."""


class Actor:
    """One process at work. `place` is where it waits for its turn; `ready`, if set, tells when it can go on."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.place = "start"
        self.ready: Callable[[], Any] | None = None
        self.stalled_until = 0  # the scheduler's own note
        self._work = greenlet.greenlet(work)

    @property
    def is_api(self) -> bool:
        """Whether it is no worker."""
        return self.name.startswith(("client", "door"))

    @property
    def can_go_on(self) -> bool:
        """Whether a turn would get it any further."""
        return self.ready is None or bool(self.ready())

    def go_on(self, lost_reply: BaseException | None = None) -> bool:
        """Run it up to the next place. Whether it is still there."""
        return self._at(self._work.switch(lost_reply) if self._work else self._work.switch())

    def fails_with(self, fault: BaseException) -> bool:
        """Raise `fault` where it is. Whether it is still there."""
        return self._at(self._work.throw(fault))

    def _at(self, where: Any) -> bool:
        if self._work.dead:
            return False
        self.place, self.ready = where
        return True


def pause(place: str, ready: Callable[[], Any] | None = None) -> BaseException | None:
    """Let others have their turn. A reply to be lost, if the scheduler wishes so."""
    turn = greenlet.getcurrent().parent
    return turn.switch((place, ready)) if turn is not None else None


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits by `pause` only."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for an event loop")


@dataclass
class Call:
    """One request of a client: what was asked, when, and what was answered (nothing yet, a receipt, or an error)."""

    number: int
    job: Job
    arguments: Arguments
    sent: int
    returned: int | None = None
    receipt: Receipt | None = None
    error: BaseException | None = None


class Gate:
    """In the place of `Grouped`: whoever comes waits for the next script call, which the scheduler makes."""

    under_way = 0

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, list[Any]]] = []

    def __len__(self) -> int:
        """Never so many that somebody is turned away."""
        return 0

    async def __call__(self, knock: Any) -> Any:
        answer: list[Any] = []
        self.waiting.append((knock, answer))
        pause("at the door", lambda: answer)
        if isinstance(answer[0], BaseException):
            raise answer[0]
        return answer[0]

    def take_group(self) -> list[tuple[Any, list[Any]]]:
        """Those who go together."""
        group, self.waiting = self.waiting[:GROUP_LIMIT], self.waiting[GROUP_LIMIT:]
        return group


class Slow(Exchange):
    """A server that does what it was sent when the replies are asked for, and not before."""

    def send(self, commands: Sequence[Command], behind: Sent | None = None) -> Sent:
        sent = behind or SentToSlow(self, None)
        sent.add(commands)
        return sent


class SentToSlow(Sent):
    """Commands that nobody has read yet."""

    def add(self, commands: Sequence[Command]) -> None:
        self._replies += commands

    def replies(self) -> list[Any]:
        return self._exchange.by_pipeline(self._replies)


class World:
    """One deployment, empty but for its sessions."""

    def __init__(
        self, sessions: Sequence[Session], partitions: int, batch_size: int, max_queued: int, job_ttl_seconds: int,
        redis_type: type[MemoryRedis] = MemoryRedis, store_type: type[MemoryStore] = MemoryStore, drain_type: type[Drain] = Drain,
    ) -> None:  # fmt: skip
        self.now = BEGIN_MS
        self.partitions = partitions
        self.lanes = Lanes(partitions)
        self.redis = redis_type(self.now_ms, pause)
        self.store = store_type(self.now_ms, pause)
        self.bells: list[int] = []
        self._workers = 0
        self.surprises: list[Exception] = []  # what a worker died of that nobody injected
        self.mailbox = Mailbox(self.redis, job_ttl_seconds)  # type: ignore[arg-type]
        if batch_size % 2:  # else at once
            self.mailbox._publish._exchange = Slow(self.redis)  # type: ignore[arg-type]
        self.drain = drain_type(self.store, self.mailbox, batch_size, self.bells.append)
        client: Any = AsyncMemoryRedis(self.redis)
        self.gate = Gate()
        self._door = Door(client, partitions, max_queued, self.bells.append, self._went_back)
        self._door._grouped = self.gate  # type: ignore[assignment]
        projections = Projections(client, partitions, job_ttl_seconds)
        threads: Any = SimpleNamespace(read=_at_once)
        self.heads = Heads(projections, self, threads, _no_look, self._record)  # type: ignore[arg-type]
        self.submit = Submit(self._door, self._find_session, self._recall, b"secret")
        self.created = {session.id: session for session in sessions}
        self.store.sessions.update(self.created)

    def now_ms(self) -> int:
        """What every clock says."""
        return self.now

    def monotonic(self) -> float:
        """The same in seconds."""
        return self.now / 1000

    async def _find_session(self, session_id: int) -> bool:
        found = self.store.sessions.get(session_id)
        if found is None:
            return False
        view: Any = SimpleNamespace(id=session_id, decided=lambda: found, last_seq=found.last_seq)
        return await self.heads._load(view, self.lanes)

    def _went_back(self, partition: int, accepted: int, found: int) -> None:
        detail: dict[str, int | str] = {"partition": partition, "accepted": accepted, "found": found}
        self.store.incidents.append(Incident("redis_went_back", None, detail))

    async def _record(self, incident: Incident, _partition: int) -> None:
        self.store.incidents.append(incident)

    def first_accepted_ms(self, session_id: int) -> int:
        """In the place of `Queries.first_accepted_ms`."""
        return min(row.verdict.command.accepted_at for (where, _), row in self.store.by_seq.items() if where == session_id)

    async def _recall(self, job_id: str) -> Job | None:
        pause("recall")
        row = self.store.jobs.get(job_id)
        return None if row is None else self.store.job(row)

    def partition(self, session_id: int) -> int:
        """The lane of a session."""
        return partition_of_session(session_id, self.partitions)

    # -- processes -------------------------------------------------------------------------------------------------------

    def client(self, call: Call, clock: Callable[[], int]) -> Actor:
        """A client with one request. `clock()` numbers the moments."""

        def work() -> None:
            try:
                call.receipt = run(self.submit(call.job, call.arguments, keyed=True))
            except (AforoError, Crash) as exc:
                call.error = exc
            call.returned = clock()

        return Actor(f"client {call.number}", work)

    def door(self) -> Actor:
        """An API process that takes in whoever waits."""
        group = self.gate.take_group()

        def work() -> None:
            try:
                answers = run(self._door._accept([knock for knock, _ in group]))
            except (AforoError, Crash) as exc:
                answers = [exc] * len(group)
            for (_, cell), answer in zip(group, answers, strict=True):
                cell.append(answer)

        return Actor("door", work)

    def worker(self, name: str, partition: int) -> Actor:
        """A worker that got a doorbell's message: one in four drains its partition, the others what waits elsewhere with it."""
        self._workers += 1
        work = (self.drain, self._drain_together, self._drain_ahead, self._drain_ahead)[self._workers % 4]
        return Actor(name, lambda: self._at_work(lambda: work(partition)))

    def _drain_together(self, partition: int) -> None:
        in_turn = [(partition + step) % self.partitions for step in range(self.partitions)]
        while any(left for _, left in self.drain.together(in_turn).values()):
            pass

    def _drain_ahead(self, partition: int) -> None:
        """As the rounds do it: taken before the lock, one batch after another, and with a look around beside the news."""
        in_turn = [(partition + step) % self.partitions for step in range(self.partitions)]
        while any(left for _, left in self.drain.round([in_turn, in_turn[:1], in_turn], in_turn)[0].values()):
            pass

    def sweeper(self, name: str) -> Actor:
        """A look of the sweeper."""
        services: Any = SimpleNamespace(mailbox=self.mailbox, drain=self.drain, lanes=self.lanes)
        return Actor(name, lambda: self._at_work(lambda: sweep(services)))

    def _at_work(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (Crash, Unavailable, Poisoned):
            return
        except Exception as exc:
            self.surprises.append(exc)

    def pass_time(self, ms: int) -> None:
        """Let time pass; transactions that stand still for too long are ended."""
        self.now += ms
        if ms > TRANSACTION_MS:
            for transaction in list(self.store.locked.values()):
                transaction.end()


async def _no_look() -> Any:
    raise AssertionError("Nobody moves partitions here.")


async def _at_once(call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


@contextmanager
def simulated(world: World, publish_limit: int, portion_limit: int, poisoned: Callable[[], None]) -> Iterator[None]:
    """Clocks, logs and metrics are the world's, and the crash points places where others come in between."""
    silent = SimpleNamespace(error=lambda *_, **__: None, applied=lambda *_: None)
    patches: list[tuple[Any, str, Any]] = [
        (service, "time", world),
        (service, "telemetry", silent),
        (service, "log", silent),
        (mailbox, "PUBLISH_LIMIT", publish_limit),
        (mailbox, "PORTION_LIMIT", portion_limit),
        (service, "PORTION_LIMIT", portion_limit),
    ]
    before = [getattr(module, name) for module, name, _ in patches]
    for module, name, value in patches:
        setattr(module, name, value)
    for point in (*WORKER_POINTS, "accepted"):
        _open(point)
    crashpoints.arm(f"deciding={POISON}", poisoned)
    try:
        yield
    finally:
        crashpoints.disarm()
        for (module, name, _), value in zip(patches, before, strict=True):
            setattr(module, name, value)


def _open(point: str) -> None:
    def come_in_between() -> None:
        crashpoints.arm(point, come_in_between)
        pause(point)

    crashpoints.arm(point, come_in_between)
