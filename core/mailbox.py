"""The mailboxes in Redis: `Door` puts commands in (API, asynchronous), `Mailbox` takes them out (worker).

The Lua scripts under core/lua own the keys and are atomic; this module packs their arguments and reads their answers.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import Any

import msgspec
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError
from redis.retry import Retry

from core.connections import with_translated_errors
from core.crashpoints import reach
from core.errors import QueueFull, Unavailable, Unconfirmed, UnknownSession
from core.grouping import Grouped
from core.model import ARGUMENTS_OF, JOB_FORMAT, SEATS_MAX, Arguments, Command, GroupArguments, Job, Session, partition_of_job
from core.numbering import Lift
from core.replicas import Replicas

ENTRY_FORMAT = 1
GROUP_LIMIT = 256  # commands in one script call: 256 hold Valkey for 2.4 ms, 1,000 for 12
PUBLISH_LIMIT = 256
PORTION_LIMIT = 32  # of a batch over which a worker died, how many are tried together
BATCH, PORTION, ONE = "batch", "portion", "one"
BELL_MS = 1000
TOTAL_SECONDS = 86_400
TOTAL_TRUSTED_SECONDS = 43_200  # well before it expires
IDLE_HEAD_SECONDS = 300
DONE_CHANNEL = "aforo:done"
REVOKED_KEY = "aforo:revoked:{}"
CREATED_KEY = "aforo:created"
CREATED_SECONDS = 60  # much longer than a session is remembered as unknown
REVOKED_SECONDS = 86_400  # so long an API process that does not reach Postgres is told of a revocation
NO_LIFT = Lift(0, 0)
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
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_CLIENT_OPTIONS)


def connect_async(url: str, max_connections: int = 4) -> redis.asyncio.Redis:
    """The same for an event loop."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=SOCKET_TIMEOUT_SECONDS, retry=retry, **_CLIENT_OPTIONS
    )
    return redis.asyncio.Redis(connection_pool=with_translated_errors(pool))


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
    return resources.files("core").joinpath("lua", f"{name}.lua").read_text("utf-8")


def key(partition: int, name: str) -> str:
    """A key of a partition; see core/lua/accept.lua for all of them."""
    return f"aforo:{{{partition}}}:{name}"


class Posted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A command as it lies in a mailbox entry, all but its seq and its time, which the mailbox gives."""

    format: int
    kind: str
    session_id: int
    job_id: str
    client: str
    body_hash: str
    arguments: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A mailbox entry that is no command; set aside at once, with what it held."""

    stream_id: str
    reason: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A command with the mailbox entry it came in."""

    stream_id: str
    command: Command


@dataclass(frozen=True, slots=True)
class Taken:
    """What lay at the start of a mailbox. `suspect` is the last entry of a batch over which a worker died, or ''; `near` that
    of the portion of it over which the next one died, too. After a death there is nothing here but what is in doubt."""

    suspect: str
    near: str
    entries: list[Entry]
    unreadable: list[Unreadable]

    @property
    def is_empty(self) -> bool:
        return not self.entries and not self.unreadable

    @property
    def way(self) -> str:
        """How they are to be tried: BATCH, after a death by the PORTION, after another ONE by one."""
        if not self.suspect:
            return BATCH
        return ONE if self.near or len(self.entries) <= PORTION_LIMIT else PORTION


@dataclass(frozen=True, slots=True)
class SessionHead:
    """A session's counters as Redis has them; see core/lua/accept.lua."""

    last_seq: int
    capacity: int
    reserved: int
    waiting: int
    waitlist_capacity: int
    state: str


def session_head(fields: Sequence[bytes | None]) -> SessionHead:
    """The head from its fields a, c, r, w, l, s. One that an earlier release wrote has neither l nor s."""
    *counts, state = fields
    return SessionHead(*(int(count or 0) for count in counts), (state or b"open").decode())


def head_fields(session: Session) -> tuple[Any, ...]:
    """The fields v, a, c, r, w, l, s of a session's head, as the scripts take them."""
    s = session
    return (s.version, s.last_seq, s.capacity, s.reserved, s.waiting, s.waitlist_capacity, s.state)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The door's answer to one command. `known`: the same job had been accepted before."""

    job: Job
    known: bool
    depth: int
    pace: float
    head: SessionHead | None


def encode_command(kind: str, session_id: int, job_id: str, client: str, fingerprint: str, arguments: Arguments) -> bytes:
    """The bytes of one mailbox entry."""
    raw = msgspec.Raw(msgspec.msgpack.encode(arguments))
    return msgspec.msgpack.encode(Posted(ENTRY_FORMAT, kind, session_id, job_id, client, fingerprint, raw))


TOO_FEW_REPLICAS = "Redis and its replicas cannot keep the request safe now. Try again shortly."
LARGEST = 2**63 - 1
_JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)

_posted = msgspec.msgpack.Decoder(Posted)
_arguments = {kind: msgspec.msgpack.Decoder(shape) for kind, shape in ARGUMENTS_OF.items()}


def decode_entry(stream_id: str, fields: dict[bytes, bytes]) -> Entry | Unreadable:
    """Read a mailbox entry; what cannot be read comes back as Unreadable, never as an exception."""
    try:
        seq = int(fields[b"s"])
        posted = _posted.decode(fields[b"c"])
        if posted.format != ENTRY_FORMAT:
            raise ValueError(f"entry format {posted.format} is not known here")
        arguments = _arguments[posted.kind].decode(posted.arguments)
        accepted_at = int(stream_id.partition("-")[0])
        _check_storable(seq, posted, arguments)
    except (KeyError, ValueError, msgspec.MsgspecError) as exc:
        return Unreadable(stream_id, f"{type(exc).__name__}: {exc}", repr(fields).encode())
    command = Command(posted.job_id, posted.session_id, seq, posted.kind, arguments, posted.client, posted.body_hash, accepted_at)
    return Entry(stream_id, command)


def _check_storable(seq: int, posted: Posted, arguments: Arguments) -> None:
    """What no table could hold would fail every batch it is in, even as a quarantined command. Raises ValueError."""
    if not _JOB_ID.fullmatch(posted.job_id):
        raise ValueError("its job id is none")
    if not (0 < seq <= LARGEST and 0 < posted.session_id <= LARGEST):
        raise ValueError("a number is out of range")
    if not (posted.client.isprintable() and posted.body_hash.isprintable()):
        raise ValueError("client or fingerprint has a control character")
    people = arguments.people if isinstance(arguments, GroupArguments) else (arguments,)
    may_have_nul = b"\0" in bytes(posted.arguments)  # which a number's bytes may also have
    for person in people:
        if may_have_nul and any(isinstance(text, str) and "\0" in text for text in msgspec.structs.astuple(person)):
            raise ValueError("a text has a NUL")
        if not 0 <= (getattr(person, "seats", None) or 0) <= SEATS_MAX:
            raise ValueError("so many seats there cannot be")


def encode_job(job: Job) -> bytes:
    """A job as its Redis key holds it: 'q' (queued) or 'd' (done), then a JSON array."""
    return (b"q" if job.outcome is None else b"d") + msgspec.json.encode(job)


_job = msgspec.json.Decoder(Job)


def decode_job(record: bytes) -> Job:
    """The reverse of `encode_job`, also for the record that the accept script completes."""
    return _job.decode(memoryview(record)[1:])


@dataclass(frozen=True, slots=True)
class _Knock:
    partition: int
    job_id: str
    session_id: int
    record: bytes
    command: bytes
    keyed: bool


class MaybeForgotten(Exception):
    """The job may be one that only the ledger knows: look there before it is accepted."""


@dataclass(frozen=True, slots=True)
class _Total:
    """How many commands Redis had accepted from this process in a partition, and when it said so (monotonic)."""

    accepted: int = 0
    known_at: float = 0.0


class Door:
    """Accepts commands: all that wait go in one round trip, one script call for each partition among them."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        partitions: int,
        max_queued: int,
        ring: Callable[[int], None],
        went_back: Callable[[int, int, int], None],
        replicas: int = 0,
    ) -> None:
        """`replicas`: so many must have a command on disk before it counts as accepted. Called without waiting: `ring(partition)`
        when a partition's workers have to be woken, and `went_back(partition, accepted, found)` when Redis counts fewer commands
        accepted from this process than it did before."""
        self._client = client
        self._replicas = Replicas(replicas)
        self._partitions = partitions
        self._max_queued = max_queued
        self._ring = ring
        self._went_back = went_back
        self._who = secrets.token_hex(4)
        self._totals = [_Total()] * partitions
        self._source = script("accept")
        self._sha: str | None = None
        self._grouped: Grouped[_Knock, Receipt] = Grouped(self._accept, GROUP_LIMIT)

    async def accept(self, job: Job, arguments: Arguments, keyed: bool = False) -> Receipt:
        """Accept one command; `job` has no seq and no time yet. When this returns, the command is durable.

        Raises QueueFull, UnknownSession (no head in Redis: load it, then come again), Unavailable, Unconfirmed; if it is `keyed`,
        and so perhaps a repeat, MaybeForgotten.
        """
        record = msgspec.json.encode((job.format, job.id, job.kind, job.session_id, job.client, job.body_hash))
        command = encode_command(job.kind, job.session_id, job.id, job.client, job.body_hash, arguments)
        partition = partition_of_job(job.id, self._partitions)
        return await self._grouped(_Knock(partition, job.id, job.session_id, record[:-1] + b",", command, keyed))

    async def _accept(self, knocks: Sequence[_Knock]) -> Sequence[Receipt | Exception]:
        if not self._replicas.are_there and not await self._are_replicas_back():
            return [Unavailable(TOO_FEW_REPLICAS)] * len(knocks)
        groups: dict[int, list[int]] = defaultdict(list)
        for index, knock in enumerate(knocks):
            groups[knock.partition].append(index)
        replies = await self._call_twice_at_most(groups, knocks)
        receipts: list[Receipt | Exception] = [Unavailable()] * len(knocks)
        for (partition, indexes), reply in zip(groups.items(), replies, strict=True):
            if isinstance(reply, Exception):
                continue
            depth, pace, rung, answers, found, before, grown = reply
            if self._replicas.are_there:  # what nobody was promised may be lost without an alarm
                self._count(partition, before, grown)  # also when all were known: what accepted them may be unanswered
            heads = {int(session): session_head(fields) for session, *fields in found}
            if rung:
                reach("accepted")
                self._ring(partition)
            for index, answer in zip(indexes, answers, strict=True):
                receipts[index] = _receipt(answer, depth, float(pace), heads.get(knocks[index].session_id))
        if not self._replicas.are_there:
            return [Unconfirmed() if _is_promise(receipt) else receipt for receipt in receipts]
        return receipts

    async def _are_replicas_back(self) -> bool:
        try:
            return await self._replicas.probe(self._client)
        except (RedisError, OSError) as exc:
            raise Unavailable from exc

    def _told(self, partition: int) -> int:
        total = self._totals[partition]
        return total.accepted if time.monotonic() - total.known_at < TOTAL_TRUSTED_SECONDS else 0

    def _count(self, partition: int, before: int, grown: int) -> None:
        """Commands that were lost before they were applied leave no other trace: their numbers are given out again."""
        told = self._told(partition)
        if before < told:
            self._went_back(partition, told, before)
        self._totals[partition] = _Total(before + grown, time.monotonic())

    async def _call_twice_at_most(self, groups: dict[int, list[int]], knocks: Sequence[_Knock]) -> list[Any]:
        """Lost replies are asked for again: safe, since a job id that is known already is answered, not accepted."""
        try:
            replies = await self._call(groups, knocks)
            if not any(isinstance(reply, (NoScriptError, redis.ConnectionError)) for reply in replies):
                return replies
        except (RedisError, OSError):
            self._sha = None
        try:
            return await self._call(groups, knocks)
        except (RedisError, OSError) as exc:
            self._sha = None
            raise Unavailable from exc

    async def _call(self, groups: dict[int, list[int]], knocks: Sequence[_Knock]) -> list[Any]:
        if self._sha is None:
            self._sha = await self._client.script_load(self._source)
        pipeline = self._client.pipeline(transaction=False)
        for partition, indexes in groups.items():
            keyed = "".join(["1" if knocks[index].keyed else "0" for index in indexes])
            told = self._told(partition)
            arguments: list[Any] = [self._max_queued, BELL_MS, self._who, TOTAL_SECONDS, told, keyed]
            for index in indexes:
                knock = knocks[index]
                arguments += (knock.job_id, knock.session_id, knock.record, knock.command)
            pipeline.evalsha(self._sha, 1, key(partition, "mailbox"), *arguments)
        if self._replicas.wanted:
            self._replicas.ask(pipeline)
        replies = await pipeline.execute(raise_on_error=False)
        if self._replicas.wanted:
            self._replicas.confirm(replies)
            replies = replies[: len(groups)]
        if any(isinstance(reply, NoScriptError) for reply in replies):
            self._sha = None
        return replies


def _is_promise(receipt: Receipt | Exception) -> bool:
    """Whether it says that something will be decided, not that it was."""
    return isinstance(receipt, Receipt) and receipt.job.outcome is None


def _receipt(answer: Sequence[bytes], depth: int, pace: float, head: SessionHead | None) -> Receipt | Exception:
    tag, text = answer
    if tag in (b"A", b"K"):
        return Receipt(decode_job(text), tag == b"K", depth, pace, head)
    if tag == b"L":
        return MaybeForgotten()
    if tag == b"F":
        return QueueFull()
    if tag == b"H":
        return UnknownSession()
    return Unavailable("Redis refused to store the request. Try again shortly.")


@dataclass(frozen=True, slots=True)
class Publication:
    """What a committed batch tells Redis.

    `rows`: each entry that was dealt with, and the job it stands for, if any: they leave and appear together. `earlier`:
    jobs of before whose reservation this batch changed. `lifts`: see numbering.Numbered. `gone`: sessions that had commands,
    but are not there. `doubt`: commands are missing, perhaps ones whose outcomes are shown already.
    """

    rows: list[tuple[str, Job | None]]
    sessions: dict[int, Session]
    lifts: dict[int, Lift]
    earlier: list[Job]
    trial_over: bool
    pace: float
    gone: frozenset[int] = frozenset()
    doubt: bool = False


class Mailbox:
    """The worker's side: take, name, publish."""

    def __init__(self, client: redis.Redis, job_ttl_seconds: int) -> None:
        self._client = client
        self._job_ttl_seconds = job_ttl_seconds
        self._take = client.register_script(script("take"))
        self._name = client.register_script(script("name"))
        self._publish = client.register_script(script("publish"))

    def take(self, partition: int, limit: int) -> Taken:
        """The oldest entries, at most `limit`; they stay until published. Raises Unavailable."""
        suspect, near, rows = self._run(partial(self._take, keys=[key(partition, "mailbox")], args=[limit]))
        taken = Taken(suspect.decode(), near.decode(), [], [])
        for stream_id, flat in rows:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            read = decode_entry(stream_id.decode(), fields)
            (taken.entries if isinstance(read, Entry) else taken.unreadable).append(read)  # type: ignore[arg-type]
        return taken

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

    def publish(self, partition: int, news: Publication) -> int:
        """Publish a committed batch, in parts that do not hold Redis for long. How many entries are left. Raises Unavailable."""
        left = 0
        if news.gone:  # nothing more is to be accepted for them
            heads = [key(partition, f"s:{session_id}") for session_id in news.gone]
            self._run(partial(self._client.delete, *heads))
        if news.doubt:
            self._run(partial(self._client.set, key(partition, "doubt"), "1", ex=self._job_ttl_seconds))
        for index, arguments in enumerate(self._parts(news)):
            if index:
                reach("between_publishes")
            left = self._run(partial(self._publish, keys=[key(partition, "mailbox")], args=arguments))
        return left

    def _parts(self, news: Publication) -> list[list[Any]]:
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
            touched = {job.session_id for job in (*jobs, *earlier)} & news.sessions.keys()  # a stray's session is not there
            trial = "over" if news.trial_over and index == len(slices) - 1 else "on"
            part: list[Any] = [self._job_ttl_seconds, IDLE_HEAD_SECONDS, BELL_MS, f"{news.pace:.1f}", DONE_CHANNEL, trial]
            part += (len(rows), *(stream_id for stream_id, _ in rows), len(touched))
            for session_id in touched:
                s = news.sessions[session_id]
                lift = news.lifts.get(s.id, NO_LIFT)  # in each part: raised once, the head remembers
                part += (s.id, *head_fields(s), lift.by, lift.seq)
            for group in (jobs, earlier):
                part.append(len(group))
                for job in group:
                    part += (job.id, job.session_id, encode_job(job))
            parts.append(part)
        return parts

    def ages_ms(self, partitions: int) -> list[int | None]:
        """How long the oldest entry of each mailbox has waited, by Redis's own clock; None where nothing waits."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.time()
        for partition in range(partitions):
            pipeline.xrange(key(partition, "mailbox"), count=1)
        (seconds, micros), *heads = self._run(pipeline.execute)
        now_ms = seconds * 1000 + micros // 1000
        return [now_ms - int(head[0][0].partition(b"-")[0]) if head else None for head in heads]

    def _run(self, call: Any) -> Any:
        try:
            return call()
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc


def draft_job(job_id: str, kind: str, session_id: int, client: str, fingerprint: str) -> Job:
    """A job on its way to the door: no seq, no time."""
    return Job(JOB_FORMAT, job_id, kind, session_id, client, fingerprint, 0, int(time.time() * 1000))
