"""The door: `Door` puts commands into the mailboxes in Redis (API, asynchronous); core/mailbox.py takes them out.

core/lua/accept.lua owns what happens to a command there; this module packs its arguments and reads its answers.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import redis
import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from core.crashpoints import reach
from core.entries import SessionHead, begin_job, decode_job, encode_command, read_head
from core.errors import QueueFull, Rearranging, Unavailable, Unconfirmed, UnknownSession
from core.grouping import Grouped, Waiter
from core.lots import Lot, Parcel
from core.mailbox import BELL_MS, key, script
from core.model import CANCEL, JOB_FORMAT, RESERVE, Arguments, Frozen, Job, partition_of_job
from core.pressure import GROUP as GROUP_UNDER_PRESSURE
from core.pressure import Pressure
from core.replicas import Replicas
from core.strain import Strain

ENOUGH = 4000  # commands that may wait before the door slows down
TOGETHER_MAX = 20_000  # commands of batches that wait in this process
GROUP_LIMIT = 256  # commands in one script call: 256 hold Valkey for 2.4 ms, 1,000 for 12
THE_MANY = (RESERVE, CANCEL)  # what an organiser wants, like closing, must get through
TOTAL_SECONDS = 86_400
TOTAL_TRUSTED_SECONDS = 43_200  # well before it expires
TOO_FEW_REPLICAS = "Redis and its replicas cannot keep the request safe now. Try again shortly."


class Receipt(Frozen):
    """The door's answer to one command. `known`: the same job had been accepted before."""

    job: Job
    known: bool
    depth: int
    pace: float
    head: SessionHead | None


class _Knock(NamedTuple):
    """A command that comes alone; its answer is its receipt."""

    partition: int
    words: tuple[str, str, bytes, bytes]  # its job's key, its session's, record, command
    digits: str  # see core/lua/accept.lua
    job: Job


class _Told(NamedTuple):
    """The answer to a parcel: two values for each command, as the script gives them. `is_safe`: on the replicas' disks, too."""

    answers: list[Any]
    depth: int
    pace: float
    is_safe: bool


class _Heads:
    """The heads that a call answered, each read when it is asked for."""

    def __init__(self, sessions: Iterable[str], found: Sequence[bytes | None]) -> None:
        """`sessions`: the keys of those of the call's commands; what was found of each is in the order in which they come up."""
        self._found = dict(zip(dict.fromkeys(sessions), found, strict=True)) if found else {}
        self._read: dict[str, SessionHead] = {}

    def of(self, session: str) -> SessionHead | None:
        head = self._read.get(session)
        if head is None and (text := self._found.get(session)) is not None:
            head = self._read[session] = read_head(text).now
        return head


class MaybeForgotten(Exception):
    """The job may be one that only the ledger knows: look there before it is accepted."""


class _Total(Frozen):
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
        enough: int = ENOUGH,
    ) -> None:
        """`replicas`: so many must have a command on disk before it counts as accepted. `enough`: may wait before the door slows
        down. Called without waiting: `ring(partition)` when a partition's workers have to be woken, and `went_back(partition,
        accepted, found)` when Redis counts fewer commands accepted from this process than it did before."""
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
        self._pressure = Pressure(enough, GROUP_LIMIT)
        self._strain = Strain()
        pause = self._pressure.pause_seconds
        self._grouped: Grouped[_Knock | Parcel, Receipt | _Told] = Grouped(self._accept, GROUP_LIMIT, pause, GROUP_UNDER_PRESSURE)

    @property
    def is_crowded(self) -> bool:
        """Whether who comes alone now is refused, whatever they want. A batch takes its time anyway."""
        return self._pressure.is_crowd(len(self._grouped))

    @property
    def is_full(self) -> bool:
        """Whether a reserve or cancel that comes now is refused."""
        return self._strain.is_full(self._grouped.under_way) or self.is_crowded

    @property
    def is_limited(self) -> bool:
        """Whether the process lets in fewer than come; until it does not, `look` must be called."""
        return self._strain.has_limit

    def look(self, late_seconds: float) -> None:
        """Called again and again while requests come, with how late the event loop is."""
        self._strain.look(late_seconds, self._grouped.is_behind, self._grouped.under_way, self._grouped.served)

    async def accept(self, job: Job, arguments: Arguments, keyed: bool = False) -> Receipt:
        """Accept one command; `job` has no seq and no time yet. When this returns, the command is durable.

        Raises QueueFull, UnknownSession (no head in Redis: load it, then come again), Unavailable, Unconfirmed; if it is `keyed`,
        and so perhaps a repeat, MaybeForgotten.
        """
        if self.is_full if job.kind in THE_MANY else self.is_crowded:
            raise QueueFull
        return await self._grouped(self._knock(job, arguments, keyed))  # type: ignore[return-value]

    def post(self, job: Job, arguments: Arguments, keyed: bool, waiter: Waiter) -> None:
        """The same without waiting, whether or not there is a crowd: `waiter` is told the receipt, or what `accept` raises."""
        self._grouped.post(self._knock(job, arguments, keyed), waiter)

    async def accept_all(self, lot: Lot) -> list[Receipt | Exception]:
        """Accept many commands, whose ids follow from keys, each with its own answer: its receipt, without the session's head, or
        what `accept` raises."""
        if self._grouped.together >= TOGETHER_MAX:
            raise QueueFull
        parcels = lot.parcels(self._partitions)
        places = [place for parcel in parcels for place in parcel.places]
        receipts: list[Any] = [None] * len(lot)
        done = 0
        for count, told in await self._grouped.lots(parcels):
            begun, done = done, done + count
            own = places[begun:done]
            found = [told] * count if isinstance(told, Exception) else _receipts(lot, own, told)  # type: ignore[arg-type]
            for place, receipt in zip(own, found, strict=True):
                receipts[place] = receipt
        return receipts

    def _knock(self, job: Job, arguments: Arguments, keyed: bool) -> _Knock:
        command = encode_command(job.kind, job.session_id, job.id, job.client, job.body_hash, arguments)
        partition = partition_of_job(job.id, self._partitions)
        prefix = key(partition, "")
        words = (f"{prefix}job:{job.id}", f"{prefix}s:{job.session_id}", begin_job(job), command)
        return _Knock(partition, words, "3" if keyed else "2", job)

    async def _accept(self, knocks: Sequence[_Knock | Parcel]) -> Sequence[Receipt | _Told | Exception]:
        if not self._replicas.are_there and not await self._are_replicas_back():
            return [Unavailable(TOO_FEW_REPLICAS)] * len(knocks)
        groups: dict[int, list[int]] = defaultdict(list)
        for index, knock in enumerate(knocks):
            groups[knock.partition].append(index)
        started = time.monotonic()
        replies = await self._call_twice_at_most(groups, knocks)
        self._pressure.took(time.monotonic() - started)
        receipts: list[Any] = [None] * len(knocks)
        for (partition, indexes), reply in zip(groups.items(), replies, strict=True):
            heard = self._heard(partition, [knocks[index] for index in indexes], reply)
            for index, receipt in zip(indexes, heard, strict=True):
                receipts[index] = receipt
        if not self._replicas.are_there:
            return [Unconfirmed() if _is_promise(receipt) else receipt for receipt in receipts]
        return receipts

    def _heard(self, partition: int, knocks: Sequence[_Knock | Parcel], reply: Any) -> Sequence[Receipt | _Told | Exception]:
        """What the answer to a partition's call says to each."""
        if isinstance(reply, Exception):
            return [Unavailable()] * len(knocks)
        depth, pace, rung, answers, found, before, grown = reply
        self._pressure.note(partition, depth, pace)
        if self._replicas.are_there:  # what nobody was promised may be lost without an alarm
            self._count(partition, before, grown)  # also when all were known: what accepted them may be unanswered
        heads = _Heads((name for knock in knocks for name in knock.words[1::4]), found)
        if rung:
            reach("accepted")
            self._ring(partition)
        rate, at = float(pace), 0
        heard: list[Receipt | _Told | Exception] = []
        for knock in knocks:
            if isinstance(knock, _Knock):
                job, first, second = knock.job, answers[at], answers[at + 1]
                heard.append(_receipt(job, first, second, depth, rate, heads.of(knock.words[1])))
                at += 2
            else:
                end = at + 2 * len(knock)
                heard.append(_Told(answers[at:end], depth, rate, self._replicas.are_there))
                at = end
        return heard

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

    async def _call_twice_at_most(self, groups: dict[int, list[int]], knocks: Sequence[_Knock | Parcel]) -> list[Any]:
        """Lost replies are asked for again: safe, since a job id that is known already is answered, not accepted."""
        try:
            replies = await self._call(groups, knocks)
        except (RedisError, OSError) as exc:
            self._sha = None
            replies = [exc] * len(groups)
        lost = {p: index for index, (p, reply) in enumerate(zip(groups, replies, strict=True)) if _may_be_lost(reply)}
        if not lost:
            return replies
        try:
            found = await self._call({partition: groups[partition] for partition in lost}, knocks)
        except (RedisError, OSError) as exc:
            self._sha = None
            if len(lost) == len(groups):
                raise Unavailable from exc
            found = [exc] * len(lost)
        for index, reply in zip(lost.values(), found, strict=True):
            replies[index] = reply
        return replies

    async def _call(self, groups: dict[int, list[int]], knocks: Sequence[_Knock | Parcel]) -> list[Any]:
        if self._sha is None:
            self._sha = await self._client.script_load(self._source)
        calls: list[tuple[Any, ...]] = []
        for partition, indexes in groups.items():
            own = [knocks[index] for index in indexes]
            words: list[Any] = ["EVALSHA", self._sha, 1, key(partition, "mailbox"), self._max_queued, BELL_MS, self._who]
            words += (TOTAL_SECONDS, self._told(partition), "".join([knock.digits for knock in own]))
            for knock in own:
                words += knock.words
            calls.append(tuple(words))
        if self._replicas.wanted:
            calls += self._replicas.question()
        replies = await self._client.exchange(calls)
        if self._replicas.wanted:
            self._replicas.confirm(replies)
            replies = replies[: len(groups)]
        if any(isinstance(reply, NoScriptError) for reply in replies):
            self._sha = None
        return replies


def _may_be_lost(reply: Any) -> bool:
    """Whether the call may have run or not, or has not for want of its script; of a cluster's nodes one may be away."""
    return isinstance(reply, (NoScriptError, redis.ConnectionError, redis.TimeoutError, OSError))


def _is_promise(receipt: Receipt | _Told | Exception) -> bool:
    """Whether it says that something will be decided, not that it was."""
    return isinstance(receipt, Receipt) and receipt.job.outcome is None


def _receipt(
    job: Job, first: int | bytes, second: Any, depth: int, pace: float, head: SessionHead | None
) -> Receipt | Exception:
    if isinstance(first, int):
        return Receipt(_accepted(job, first, second), False, depth, pace, head)
    return _other_receipt(job.id, first, second, depth, pace, head)


def _receipts(lot: Lot, places: Sequence[int], told: _Told) -> list[Receipt | Exception]:
    """Of a parcel's commands, which stand at these places of the lot."""
    answers, depth, pace, is_safe = told
    answer = iter(answers)
    receipts: list[Receipt | Exception] = []
    for place, first, second in zip(places, answer, answer, strict=True):
        if isinstance(first, int):
            receipts.append(Receipt(lot.job(place, first, second), False, depth, pace, None))
        else:
            receipts.append(_other_receipt(lot.ids[place], first, second, depth, pace, None))
    return receipts if is_safe else [Unconfirmed() if _is_promise(receipt) else receipt for receipt in receipts]


def _accepted(job: Job, seq: int, accepted_at: int) -> Job:
    return Job(job.format, job.id, job.kind, job.session_id, job.client, job.body_hash, seq, accepted_at)


def _other_receipt(
    job_id: str, tag: bytes, text: bytes, depth: int, pace: float, head: SessionHead | None
) -> Receipt | Exception:
    if tag == b"K":
        return Receipt(decode_job(text, job_id), True, depth, pace, head)
    if tag == b"L":
        return MaybeForgotten()
    if tag == b"F":
        return QueueFull()
    if tag == b"H":
        return UnknownSession()
    if tag == b"S":
        return Rearranging()
    return Unavailable("Redis refused to store the request. Try again shortly.")


def draft_job(job_id: str, kind: str, session_id: int, client: str, fingerprint: str) -> Job:
    """A job on its way to the door: no seq, no time."""
    return Job(JOB_FORMAT, job_id, kind, session_id, client, fingerprint, 0, int(time.time() * 1000))
