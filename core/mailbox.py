"""The mailboxes in Redis: `Mailbox` takes commands out and publishes what became of them (worker); core/door.py puts them in.

The Lua scripts under core/lua own the keys and are atomic; this module packs their arguments and reads their answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from types import MappingProxyType
from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError
from redis.retry import Retry

from core.cluster import AsyncCluster, Cluster
from core.connections import client
from core.crashpoints import reach
from core.entries import Entry, Unreadable, decode_entries, encode_job, head_text
from core.errors import Unavailable
from core.exchange import Call, Exchange, Scripts, Sent, checked
from core.model import CONFIGURE, Job, Session
from core.numbering import Lift
from core.slots import ClusterUrl

PUBLISH_LIMIT = 256
PORTION_LIMIT = 32  # of a batch over which a worker died, how many are tried together
BATCH, PORTION, ONE = "batch", "portion", "one"
BELL_MS = 1000
IDLE_HEAD_SECONDS = 300
DONE_CHANNEL = "aforo:done"
REVOKED_KEY = "aforo:revoked:{}"
CREATED_KEY = "aforo:created"
ERA_KEY = "aforo:era"
CREATED_SECONDS = 60  # much longer than a session is remembered as unknown
REVOKED_SECONDS = 86_400  # so long an API process that does not reach Postgres is told of a revocation
NO_LIFT = Lift(0, 0)
MEET_WHAT_WAS_BEFORE = frozenset({"head", "publish", "retire"})  # scripts that may find what the release before wrote
FREE = "free"
NO_MARKS: Mapping[int, str] = MappingProxyType({})
SOCKET_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2.0

_CLIENT_OPTIONS: dict[str, Any] = {
    "protocol": 2,
    "socket_timeout": SOCKET_TIMEOUT_SECONDS,
    "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "socket_keepalive": True,
}


def connect(url: str) -> redis.Redis:
    """A client that never repeats a call by itself: a script that ran and lost its reply must not run unseen again."""
    cluster = ClusterUrl.parse(url)
    if cluster is not None:
        return Cluster(cluster, connect)
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_CLIENT_OPTIONS)


def connect_async(url: str, max_connections: int = 4) -> redis.asyncio.Redis:
    """The same for an event loop. `max_connections`: to each server."""
    cluster = ClusterUrl.parse(url)
    if cluster is not None:
        return AsyncCluster(cluster, partial(connect_async, max_connections=max_connections))
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=SOCKET_TIMEOUT_SECONDS, retry=retry, **_CLIENT_OPTIONS
    )
    return client(pool)


def announce_revoked(url: str, key_id: str) -> None:
    """Tell API processes that cannot ask Postgres. Raises Unavailable."""
    client = connect(url)
    try:
        client.set(REVOKED_KEY.format(key_id), "1", ex=REVOKED_SECONDS)
    except (RedisError, OSError) as exc:
        raise Unavailable("Redis cannot be reached.") from exc
    finally:
        client.close()


@cache
def script(name: str) -> str:
    """The text of one of the Lua scripts."""
    files = ["before", name] if name in MEET_WHAT_WAS_BEFORE else [name]
    return "".join([resources.files("core").joinpath("lua", f"{file}.lua").read_text("utf-8") for file in files])


def _age_ms(head: Any, now_ms: float) -> int | None:
    """Of the first entry of a mailbox, if there is one."""
    if isinstance(head, Exception) or not head:
        return None
    return int(now_ms - int(head[0][0].partition(b"-")[0]))


def key(partition: int, name: str) -> str:
    """A key of a partition; see core/lua/accept.lua for all of them."""
    return f"aforo:{{{partition}}}:{name}"


@dataclass(frozen=True, slots=True)
class Taken:
    """What lay at the start of a mailbox. `suspect` is the last entry of a batch over which a worker died, or ''; `near` that
    of the portion of it over which the next one died, too. After a death there is nothing here but what is in doubt."""

    suspect: str
    near: str
    entries: list[Entry]
    unreadable: list[Unreadable]
    last: str = ""  # entry of all that was taken

    @property
    def mark(self) -> str:
        """What Redis remembers this batch by."""
        return self.suspect or self.last

    @property
    def is_empty(self) -> bool:
        return not self.entries and not self.unreadable

    @property
    def way(self) -> str:
        """How they are to be tried: BATCH, after a death by the PORTION, after another ONE by one."""
        if not self.suspect:
            return BATCH
        return ONE if self.near or len(self.entries) <= PORTION_LIMIT else PORTION

    @property
    def is_alone(self) -> bool:
        """Whether nothing else is to be tried with it: after a death, and where many reservations may move."""
        return bool(self.suspect) or bool(self.entries and self.entries[0].command.kind == CONFIGURE)


@dataclass(frozen=True, slots=True)
class Sight:
    """A mailbox in which something waits. `is_taken`: a batch of it is under way, or a worker died over one."""

    partition: int
    waiting: int
    age_ms: int
    is_taken: bool


def looks(partitions: Sequence[int], keep_ms: int) -> list[tuple[str, tuple[int]]]:
    """The calls of look.lua for these."""
    return [(key(partition, "mailbox"), (keep_ms,)) for partition in partitions]


def sights(partitions: Sequence[int], found: Sequence[Any]) -> list[Sight]:
    """What they were answered, as far as they were; only where something waits."""
    told = [(p, answer) for p, answer in zip(partitions, found, strict=True) if not isinstance(answer, Exception)]
    return [Sight(p, *numbers, bool(taken)) for p, (*numbers, taken) in told if numbers[0]]


@dataclass(frozen=True, slots=True)
class Publication:
    """What a committed batch tells Redis.

    `rows`: each entry that was dealt with, and the job it stands for, if any: they leave and appear together. `earlier`:
    jobs of before whose reservation this batch changed. `lifts`: see numbering.Numbered. `mark_over`: the batch's mark, if
    nothing of it is left to be tried; else ''. `gone`: sessions that had commands, but are not there. `doubt`: commands are
    missing, perhaps ones whose outcomes are shown already. `keep_bell`: whoever publishes will look again soon, so that nobody
    has to ring.
    """

    rows: list[tuple[str, Job | None]]
    sessions: dict[int, Session]
    lifts: dict[int, Lift]
    earlier: list[Job]
    mark_over: str
    pace: float
    gone: frozenset[int] = frozenset()
    doubt: bool = False
    keep_bell: bool = False


Row = tuple[bytes, list[bytes]]  # an entry: its id, and field, value, field, value ...


def _place(stream_id: bytes) -> tuple[int, ...]:
    return tuple(map(int, stream_id.split(b"-")))


def _taken(suspect: bytes, near: bytes, rows: Sequence[Row], last: bytes) -> Taken:
    taken = Taken(suspect.decode(), near.decode(), [], [], (last or (rows[-1][0] if rows else b"")).decode())
    for read in decode_entries(rows):
        (taken.entries if isinstance(read, Entry) else taken.unreadable).append(read)  # type: ignore[arg-type]
    return taken


class Sending:
    """A publication on its way, its parts in order."""

    def __init__(self, publish: Scripts) -> None:
        self._publish = publish
        self._partitions: list[int] = []
        self._calls: list[Call] = []
        self._sent: Sent | None = None
        self._left: dict[int, int] = {}

    def add(self, partitions: list[int], calls: list[Call]) -> None:
        """Send the next part."""
        self._sent = self._publish.send(calls, self._sent)
        self._partitions += partitions
        self._calls += calls

    def left(self) -> dict[int, int]:
        """Wait for the end of what was sent: how many entries are left in each partition. Raises Unavailable."""
        if self._sent is not None:
            sent, self._sent = self._sent, None
            self._left.update(zip(self._partitions, self._publish.answers_to(self._calls, sent), strict=True))
            self._partitions, self._calls = [], []
        return self._left

    def drop(self) -> None:
        """Nobody waits for it any more, if anybody still did."""
        if self._sent is not None:
            self._sent.drop()


class Mailbox:
    """The worker's side: take, name, publish."""

    def __init__(self, client: redis.Redis, job_ttl_seconds: int) -> None:
        self._client = client
        self._job_ttl_seconds = job_ttl_seconds
        exchange = Exchange(client)
        self._take = Scripts(client, exchange, script("take"))
        self._name = client.register_script(script("name"))
        self._publish = Scripts(client, exchange, script("publish"))
        self._look = Scripts(client, exchange, script("look"))
        self._waiting: dict[int, int] = {}  # by partition, as it was last seen; good for guesses

    def take(
        self, partitions: Sequence[int], limit: int, only_free: bool = False, behind: Mapping[int, str] = NO_MARKS
    ) -> dict[int, Taken]:
        """The oldest entries of each, at most `limit`; they stay until published. `only_free`: nothing of a mailbox that somebody
        may be at; whoever has no lock yet takes no other. `behind`: marks of one's own, for what is committed and not told yet;
        there the entries after it. Raises Unavailable."""
        ways = {partition: behind.get(partition, FREE if only_free else "") for partition in partitions}
        own = [p for p in partitions if p not in behind and self._waiting.get(p, 0) <= limit] if self._take.is_lean else []
        calls: list[Call] = [(key(p, "mailbox"), (limit, way, int(p in own))) for p, way in ways.items()]
        answers, read = self._take.before(calls, [("XRANGE", key(p, "mailbox"), "-", "+", "COUNT", limit) for p in own])
        rows = dict(zip(own, read, strict=True))
        taken = {}
        for partition, (suspect, near, entries, last) in zip(partitions, answers, strict=True):
            found = self._up_to(partition, last, rows[partition], limit) if last else entries
            if last and not found:  # others have told it meanwhile
                self.forgive(partition, BATCH)
            taken[partition] = _taken(suspect, near, found, last)
        return taken

    def _up_to(self, partition: int, last: bytes, rows: list[Row], limit: int) -> Sequence[Row]:
        """What was read of a mailbox, as far as the mark goes; read again if that was before the mark, for want of a script."""
        while rows and _place(rows[-1][0]) > _place(last):
            rows.pop()
        if rows and rows[-1][0] == last:
            return rows
        found: Sequence[Row] = self._take.before((), [("XRANGE", key(partition, "mailbox"), "-", last, "COUNT", limit)])[1][0]
        return found

    def name(self, partition: int, stream_id: str) -> int:
        """Name the one command about to be tried by itself. How many workers died over it so far. Raises Unavailable."""
        return self._run(partial(self._name, keys=[key(partition, "mailbox")], args=[stream_id]))

    def narrow(self, partition: int, stream_id: str) -> None:
        """Mark the last entry of the portion about to be tried. Raises Unavailable."""
        try:
            self._client.hset(key(partition, "trial"), "near", stream_id)
        except OutOfMemoryError:
            return  # It must be tried all the same, only without the mark.
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc

    def forgive(self, partition: int, way: str) -> None:
        """What was tried this way failed, but not by its commands' fault: take the mark back, as far as Redis can be reached."""
        trial = key(partition, "trial")
        try:
            if way == ONE:
                self._client.hincrby(trial, "deaths", -1)
            elif way == PORTION:
                self._client.hdel(trial, "near")
            else:
                self._client.delete(trial)
        except (RedisError, OSError):
            return  # At worst the next batch goes one by one.

    def publish(self, news: Mapping[int, Publication], around: Sequence[int] = ()) -> tuple[dict[int, int], list[Sight]]:
        """Publish a committed batch, by partition, in parts that do not hold Redis for long. How many entries are left in each,
        and what is seen after it `around`, whose bells are kept. Raises Unavailable."""
        left: dict[int, int] = {}
        seen: list[Any] = []
        *parts, last = self._prepared(news)
        for due, calls in parts:
            left.update(zip(due, self._publish(calls), strict=True))
            reach("between_publishes")
        due, calls = last
        answers, seen = self._publish.tried_with(calls, self._look, looks(around, BELL_MS))
        left.update(zip(due, checked(answers), strict=True))
        found = sights(around, seen)
        self._waiting.update(left)
        self._waiting.update({sight.partition: sight.waiting for sight in found})
        return left, found

    def send(self, news: Mapping[int, Publication]) -> Sending:
        """Publish, and do something else until its end is asked for. Raises Unavailable.

        Parts that take nothing out of the mailbox are waited for: at maxmemory they fail and those that do would not, and then
        nothing was left to bring them again.
        """
        sending = Sending(self._publish)
        early = max(len(told.earlier) - 1 for told in news.values()) // PUBLISH_LIMIT
        for number, part in enumerate(self._prepared(news)):
            if number:
                reach("between_publishes")
            sending.add(*part)
            if number < early:
                sending.left()
        return sending

    def _prepared(self, news: Mapping[int, Publication]) -> list[tuple[list[int], list[Call]]]:
        """The calls, part by part, with their partitions; what comes before all of them is done."""
        for partition, told in news.items():
            if told.gone:  # nothing more is to be accepted for them
                heads = [key(partition, f"s:{session_id}") for session_id in told.gone]
                self._run(partial(self._client.delete, *heads))
            if told.doubt:
                self._run(partial(self._client.set, key(partition, "doubt"), "1", ex=self._job_ttl_seconds))
        parts = {partition: self._parts(key(partition, ""), told) for partition, told in news.items()}
        prepared: list[tuple[list[int], list[Call]]] = []
        for index in range(max(map(len, parts.values()))):
            due = {partition: found[index] for partition, found in parts.items() if index < len(found)}
            prepared.append((list(due), [(key(partition, "mailbox"), arguments) for partition, arguments in due.items()]))
        return prepared

    def _parts(self, prefix: str, news: Publication) -> list[list[Any]]:
        """The calls' arguments. Earlier jobs first: should we die in between, the entries that are left bring them again."""
        early = [([], news.earlier[start : start + PUBLISH_LIMIT]) for start in range(0, len(news.earlier), PUBLISH_LIMIT)]
        late = [(news.rows[start : start + PUBLISH_LIMIT], []) for start in range(0, len(news.rows), PUBLISH_LIMIT)]
        slices: list[tuple[list[tuple[str, Job | None]], list[Job]]] = [*early, *late] or [([], [])]
        if early and late:  # the usual case is one call
            first, last = early.pop(), late.pop(0)
            slices = [*early, (last[0], first[1]), *late]
        parts: list[list[Any]] = []
        for index, (rows, earlier) in enumerate(slices):
            jobs = [job for _, job in rows if job is not None]
            by_session: dict[int, list[Job]] = {job.session_id: [] for job in (*jobs, *earlier)}
            for job in jobs:
                by_session[job.session_id].append(job)
            touched = [session_id for session_id in by_session if session_id in news.sessions]  # a stray's session is not there
            strays = [session_id for session_id in by_session if session_id not in news.sessions]
            jobs = [job for session_id in (*touched, *strays) for job in by_session[session_id]]
            mark = news.mark_over if index == len(slices) - 1 else ""
            part: list[Any] = [self._job_ttl_seconds, IDLE_HEAD_SECONDS, BELL_MS, f"{news.pace:.1f}", DONE_CHANNEL]
            part += (mark, int(news.keep_bell))
            part += (len(rows), *(stream_id for stream_id, _ in rows), len(touched))
            for session_id in touched:
                lift = news.lifts.get(session_id, NO_LIFT)  # in each part: raised once, the head remembers
                told = head_text(news.sessions[session_id])
                part += (f"{prefix}s:{session_id}", told, lift.by, lift.seq, len(by_session[session_id]))
            part += (len(jobs), "".join([job.id for job in jobs]))
            for job in jobs:
                part += (f"{prefix}job:{job.id}", encode_job(job))
            part += ("EX", self._job_ttl_seconds, len(earlier))
            for job in earlier:
                part += (f"{prefix}job:{job.id}", f"{prefix}s:{job.session_id}", encode_job(job))
            parts.append(part)
        return parts

    def ages_ms(self, partitions: int) -> list[int | None]:
        """How long the oldest entry of each mailbox has waited, by Redis's own clock; None where nothing waits, or where the
        node of a cluster cannot be reached. Raises Unavailable when none can."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.time()
        for partition in range(partitions):
            pipeline.xrange(key(partition, "mailbox"), count=1)
        clock, *heads = self._run(partial(pipeline.execute, raise_on_error=False))
        if all(isinstance(head, Exception) for head in heads):
            raise Unavailable("Redis cannot be reached.") from heads[0]
        now_ms = time.time() * 1000 if isinstance(clock, Exception) else clock[0] * 1000 + clock[1] // 1000
        return [_age_ms(head, now_ms) for head in heads]

    def _run(self, call: Any) -> Any:
        try:
            return call()
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
