"""What operators look at, over all processes: what is accepted and applied, how long that takes, what waits, who is alive.

All of it is read from Redis: the counters of the mailboxes, and what workers and sweepers tell of themselves (core/pulse.py). A
slot of time that is over does not change any more, so it is read once.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from core.errors import Unavailable
from core.mailbox import connect, key
from core.model import Frozen
from core.pulse import ADDED, ALIVE_KEY, AT, LATENCY, OUTCOME, SLOT_KEY, SLOT_SECONDS, WAITING, read_sign
from core.telemetry import LATENCY_SECONDS

HISTORY_SECONDS: Final = 600
SETTLED_SLOTS: Final = 4  # the newest, which may still change
LATENCY_SLOTS: Final = 5  # those that p50 and p99 are of
LATE_SECONDS: Final = 10.0  # without a sign of life
RATE_SECONDS: Final = (1.0, 10.0)  # a rate is told between two looks so far apart
VERIFIED_KEY: Final = "aforo:{operations}:verified"
VERIFIED_DIFFERENCES: Final = 20


class Lane(Frozen):
    """A partition: how many commands wait, and how long the oldest has."""

    partition: int
    waiting: int
    oldest_seconds: float


class Process(Frozen):
    """A worker process or a sweeper. `late`: it should have given a sign of life by now."""

    name: str
    kind: str
    since: int
    last_sign: int
    silent_seconds: float
    late: bool


class OutcomeCount(Frozen):
    """How often a kind of command had an outcome."""

    kind: str
    outcome: str
    count: int


class Point(Frozen):
    """One moment of the plot; rates are per second. None where nothing is known, or nothing was applied."""

    at: int
    accepted: float | None = None
    applied: float | None = None
    waiting: int | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


class Verified(Frozen):
    """What the last `aforo verify` said."""

    at: int
    ok: bool
    sessions: int
    jobs: int
    reservations: int
    difference_count: int
    differences: tuple[str, ...]
    seconds: float


class Overview(Frozen):
    """All of it at one moment."""

    now: Point
    partitions: tuple[Lane, ...]
    processes: tuple[Process, ...]
    outcomes: tuple[OutcomeCount, ...]
    verified: Verified | None


class _Slot(Frozen):
    """What happened in two seconds."""

    number: int
    outcomes: dict[str, int]
    buckets: dict[int, int]
    at: int | None = None
    added: int = 0
    waiting: int = 0


_verified = msgspec.json.Decoder(Verified)


def note_verified(redis_url: str, verified: Verified) -> None:
    """Keep the result of a verification for operators to see. Raises Unavailable."""
    client = connect(redis_url)
    try:
        client.set(VERIFIED_KEY, msgspec.json.encode(verified))
    except (RedisError, OSError) as exc:
        raise Unavailable("Redis cannot be reached.") from exc
    finally:
        client.close()


class Operations:
    """Reads the overview. Raises Unavailable."""

    def __init__(self, client: redis.asyncio.Redis, partitions: int) -> None:
        self._client = client
        self._partitions = partitions
        self._slots: dict[int, _Slot] = {}
        self._looks: deque[tuple[int, int, int]] = deque(maxlen=64)  # when (ms), entries added, waiting

    async def overview(self) -> Overview:
        """How things are now."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.time()
        pipeline.hgetall(ALIVE_KEY)
        pipeline.get(VERIFIED_KEY)
        for partition in range(self._partitions):
            pipeline.xinfo_stream(key(partition, "mailbox"))
        clock, signs, verified, *streams = await self._execute(pipeline)
        if any(isinstance(reply, Exception) for reply in (clock, signs, verified)):
            raise Unavailable("Redis cannot be reached.")  # of a cluster the node that has all this
        now_ms = clock[0] * 1000 + clock[1] // 1000
        slots = await self._slots_until(now_ms)
        lanes = tuple([_lane(number, stream, now_ms) for number, stream in enumerate(streams)])
        added = sum(stream["entries-added"] for stream in streams if isinstance(stream, dict))
        return Overview(
            self._point(now_ms, added, sum(lane.waiting for lane in lanes), slots),
            lanes,
            _processes(signs, now_ms),
            _outcomes(slots),
            _verified.decode(verified) if verified else None,
        )

    async def history(self) -> list[Point]:
        """The last minutes, as the sweeper saw them, the oldest first."""
        try:
            seconds, micros = await self._client.time()
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        slots = await self._slots_until(seconds * 1000 + micros // 1000)
        seen = [slot for slot in slots if slot.at is not None]
        points = []
        for before, slot in itertools.pairwise(seen):
            nearby = [one for one in slots if slot.number - LATENCY_SLOTS < one.number <= slot.number]
            points.append(_moment(slot.at or 0, slot.added, slot.waiting, (before.at or 0, before.added, before.waiting), nearby))
        return points

    def _point(self, now_ms: int, added: int, waiting: int, slots: Sequence[_Slot]) -> Point:
        shortest, longest = RATE_SECONDS
        seen = [(slot.at, slot.added, slot.waiting) for slot in slots if slot.at is not None]
        looks = sorted([*seen, *self._looks])
        apart = [look for look in looks if shortest * 1000 <= now_ms - look[0] <= longest * 1000]
        self._looks.append((now_ms, added, waiting))
        newest = slots[-1].number if slots else 0
        lately = [slot for slot in slots if slot.number > newest - LATENCY_SLOTS]
        return _moment(now_ms, added, waiting, apart[-1] if apart else None, lately)

    async def _slots_until(self, now_ms: int) -> list[_Slot]:
        """The slots of the last minutes."""
        newest = now_ms // 1000 // SLOT_SECONDS
        wanted = range(newest - HISTORY_SECONDS // SLOT_SECONDS + 1, newest + 1)
        missing = [number for number in wanted if number not in self._slots or number > newest - SETTLED_SLOTS]
        pipeline = self._client.pipeline(transaction=False)
        for number in missing:
            pipeline.hgetall(SLOT_KEY % number)
        found = await self._execute(pipeline)
        fresh = {number: _slot(number, fields) for number, fields in zip(missing, found, strict=True)}
        self._slots = {number: slot for number in wanted if (slot := fresh.get(number) or self._slots.get(number)) is not None}
        return list(self._slots.values())

    async def _execute(self, pipeline: Any) -> list[Any]:
        """The answers; where a mailbox was never used there is an error in its place."""
        try:
            return await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc


def quantile(buckets: dict[int, int], share: float) -> float | None:
    """The latency in milliseconds below which that share lies, by its bucket; None where nothing was counted."""
    total = sum(buckets.values())
    if not total:
        return None
    bounds, wanted, below = (0.0, *LATENCY_SECONDS), share * total, 0
    for bucket in sorted(buckets):
        count = buckets[bucket]
        if below + count >= wanted and count:
            if bucket + 1 >= len(bounds):
                return bounds[-1] * 1000
            first, last = bounds[bucket], bounds[bucket + 1]
            return round((first + (last - first) * (wanted - below) / count) * 1000, 2)
        below += count
    return bounds[-1] * 1000


def _moment(at: int, added: int, waiting: int, before: tuple[int, int, int] | None, slots: Iterable[_Slot]) -> Point:
    """One point: the rates since a look before, where none went back (Redis was emptied), and latencies of these slots."""
    buckets: dict[int, int] = {}
    for slot in slots:
        for bucket, count in slot.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0) + count
    accepted = applied = None
    if before is not None and at > before[0] and added >= before[1]:
        seconds = (at - before[0]) / 1000
        accepted = round((added - before[1]) / seconds, 1)
        applied = round(max(0, (added - waiting) - (before[1] - before[2])) / seconds, 1)
    return Point(at, accepted, applied, waiting, quantile(buckets, 0.5), quantile(buckets, 0.99))


def _lane(partition: int, stream: Any, now_ms: int) -> Lane:
    if not isinstance(stream, dict) or not stream["length"]:
        return Lane(partition, 0, 0.0)
    first = stream["first-entry"]
    oldest_ms = now_ms - int(first[0].partition(b"-")[0]) if first else 0
    return Lane(partition, stream["length"], max(0, oldest_ms) / 1000)


def _processes(signs: Any, now_ms: int) -> tuple[Process, ...]:
    found = []
    for name, record in sorted(signs.items()):
        sign = read_sign(record)
        if sign is not None:
            silent = max(0, now_ms - sign.at) / 1000
            found.append(Process(name.decode().partition(":")[2], sign.kind, sign.since, sign.at, silent, silent > LATE_SECONDS))
    return tuple(sorted(found, key=lambda process: (process.kind, process.name)))


def _outcomes(slots: Iterable[_Slot]) -> tuple[OutcomeCount, ...]:
    counts: dict[str, int] = {}
    for slot in slots:
        for name, count in slot.outcomes.items():
            counts[name] = counts.get(name, 0) + count
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple([OutcomeCount(name.partition("/")[0], name.partition("/")[2], count) for name, count in ordered])


def _slot(number: int, fields: Any) -> _Slot:
    outcomes: dict[str, int] = {}
    buckets: dict[int, int] = {}
    seen: dict[str, int] = {}
    for name, value in (fields if isinstance(fields, dict) else {}).items():
        text, count = name.decode(), int(value)
        if text.startswith(OUTCOME):
            outcomes[text.removeprefix(OUTCOME)] = count
        elif text.startswith(LATENCY):
            buckets[int(text.removeprefix(LATENCY))] = count
        else:
            seen[text] = count
    return _Slot(number, outcomes, buckets, seen.get(AT), seen.get(ADDED, 0), seen.get(WAITING, 0))
