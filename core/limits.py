"""Rate limits: how often a key and an address may ask, counted in Redis for all API processes together.

`Limiter` counts requests (core/lua/limit.lua): those of a moment share one round trip, and while a bucket is more than half full
a process takes some of it ahead, so that a busy caller does not cost a call for each request. More than the limit never passes,
for no process gives out what it has not taken, and a request that is refused costs nothing. `Turnstile` bounds what one caller
may have open in this process at once.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, Final, NamedTuple

import msgspec
import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from core.cluster import AsyncCluster, pool_of
from core.errors import Unavailable
from core.grouping import Grouped, Waiter
from core.mailbox import script
from core.settings import Rate

GROUP_LIMIT: Final = 256
BUCKETS_REMEMBERED: Final = 4096
ADVANCE_SECONDS: Final = 0.1
ADVANCE_LEAST: Final = 8  # requests in that time, or nothing is taken ahead
ADVANCE_MAX: Final = 100
COST_MAX: Final = 1000  # commands in one request
ADDRESS_PREFIX: Final = "aforo:{limits}:a:"
API_KEY_PREFIX: Final = "aforo:{limits}:k:"
IPV6_NETWORK_BITS: Final = 64  # one subscriber has at least so many addresses to choose from


class Policy:
    """One limit, as clients are told of it: `name`, and how much of it there is in how many seconds."""

    __slots__ = ("burst", "name", "prefix", "text", "unit_us")

    def __init__(self, name: str, prefix: str, rate: Rate) -> None:
        self.name = name
        self.prefix = prefix
        self.unit_us = rate.unit_us
        self.burst = rate.burst
        self.text = f'"{name}";q={rate.burst};w={rate.window_seconds}'

    def left(self, ahead_us: int) -> str:
        """For clients: what could come now, and in how many seconds all of it can again."""
        remaining = max(0, math.floor(self.burst - ahead_us / self.unit_us + 1e-6))
        return f'"{self.name}";r={remaining};t={math.ceil(ahead_us / 1e6)}'


class Bucket(NamedTuple):
    """Whose requests are counted under which policy. `key`: where, in Redis."""

    policy: Policy
    key: str


Buckets = tuple[Bucket, ...]


class Verdict:
    """Whether a request may pass, and how its buckets stand: how many microseconds each is from full."""

    __slots__ = ("ahead_us", "buckets", "passes")

    def __init__(self, passes: bool, buckets: Buckets, ahead_us: Sequence[int]) -> None:
        self.passes = passes
        self.buckets = buckets
        self.ahead_us = ahead_us

    def retry_seconds(self, asked: int = 1, paid: int = 0) -> int:
        """When a request that was refused may come again."""
        lacking_us = [
            ahead + (min(asked, policy.burst) - paid - policy.burst) * policy.unit_us
            for (policy, _), ahead in zip(self.buckets, self.ahead_us, strict=True)
        ]
        return max(1, math.ceil(max(lacking_us) / 1e6))

    @property
    def policies(self) -> str:
        """RateLimit-Policy: what is allowed."""
        return ", ".join([policy.text for policy, _ in self.buckets])

    @property
    def standing(self) -> str:
        """RateLimit: what could still come now, and in how many seconds all of it can again."""
        return ", ".join([policy.left(ahead) for (policy, _), ahead in zip(self.buckets, self.ahead_us, strict=True)])


class _Ask(NamedTuple):
    buckets: Buckets
    asked: int
    paid: int


class _Advance:
    """Units that were taken ahead for these buckets, and how many requests came since."""

    __slots__ = ("came", "left", "until", "verdict")

    def __init__(self, left: int, until: float, verdict: Verdict) -> None:
        self.left = left
        self.until = until
        self.verdict = verdict
        self.came = 0


class Limiter:
    """Counts requests against their buckets, two at most. Raises Unavailable when Redis cannot be asked."""

    def __init__(self, client: redis.asyncio.Redis, per_key: Rate | None, per_address: Rate | None) -> None:
        self._client = client
        self._connection: Any = None
        self._pool: Any = None
        self._per_key = Policy("key", API_KEY_PREFIX, per_key) if per_key else None
        self._per_address = Policy("address", ADDRESS_PREFIX, per_address) if per_address else None
        self.is_on = per_key is not None or per_address is not None
        self.buckets = lru_cache(BUCKETS_REMEMBERED)(self._buckets)
        self._source = script("limit")
        self._sha: str | None = None
        self._grouped: Grouped[_Ask, Verdict] = Grouped(self._ask, GROUP_LIMIT)
        self._advances: dict[Buckets, _Advance] = {}

    def _buckets(self, address: str | None, key_id: str | None) -> Buckets:
        """The buckets of an address and of an API key, of those that are limited."""
        address_policy, key_policy = self._per_address, self._per_key
        found = []
        if address_policy is not None and address is not None:
            found.append(Bucket(address_policy, address_policy.prefix + network_of(address)))
        if key_policy is not None and key_id is not None:
            found.append(Bucket(key_policy, key_policy.prefix + key_id))
        return tuple(found)

    async def __call__(self, buckets: Buckets, asked: int = 1, paid: int = 0) -> Verdict:
        """Ask all buckets for `asked` units, of which `paid` were paid before. `asked` 0 gives back what was paid."""
        verdict = self._at_once(buckets) if asked == 1 and not paid else None
        return verdict or await self._grouped(_Ask(buckets, asked, paid))

    def post(self, buckets: Buckets, waiter: Waiter) -> None:
        """Ask all buckets for one unit without waiting: `waiter` is told, before this returns if it was taken ahead."""
        verdict = self._at_once(buckets)
        if verdict is None:
            self._grouped.post(_Ask(buckets, 1, 0), waiter)
        else:
            waiter.set_result(verdict)

    def _at_once(self, buckets: Buckets) -> Verdict | None:
        """What needs no asking, since it was taken ahead."""
        advance = self._advances.get(buckets)
        if advance is None or time.monotonic() >= advance.until:
            return None
        advance.came += 1
        if not advance.left:
            return None
        advance.left -= 1
        return advance.verdict

    async def _ask(self, asks: Sequence[_Ask]) -> Sequence[Verdict]:
        now = time.monotonic()
        alike: dict[_Ask, int] = {}
        for ask in asks:
            alike[ask] = alike.get(ask, 0) + 1
        places: dict[str, int] = {}
        numbers: list[float] = [COST_MAX]
        requests: list[int] = []
        for (buckets, asked, paid), count in alike.items():
            two = [0, 0]
            for index, (policy, key) in enumerate(buckets):
                place = places.get(key)
                if place is None:
                    place = places[key] = len(places) + 1
                    numbers += (policy.unit_us, policy.burst)
                two[index] = place
            requests += (count, asked, paid, *two, self._wanted(buckets, count, now) if asked == 1 and not paid else 0)
        answers = await self._call(places, msgspec.msgpack.encode([*numbers, *requests]))
        verdicts: dict[_Ask, Iterator[Verdict]] = {}
        for i, ask in enumerate(alike):
            passed, *ahead_us, taken = answers[4 * i : 4 * i + 4]
            yes, no = (Verdict(passes, ask.buckets, ahead_us[: len(ask.buckets)]) for passes in (True, False))
            verdicts[ask] = chain(repeat(yes, passed), repeat(no))
            self._take(ask.buckets, taken, yes, now)
        return [next(verdicts[ask]) for ask in asks]

    def _wanted(self, buckets: Buckets, count: int, now: float) -> int:
        """How much to take ahead: for twice the requests that came in the last moment, if they were more than a few."""
        advance = self._advances.get(buckets)
        if advance is not None and now - advance.until < ADVANCE_SECONDS:
            count = max(count, advance.came)
        return min(2 * count, ADVANCE_MAX) if count >= ADVANCE_LEAST else 0

    def _take(self, buckets: Buckets, taken: int, verdict: Verdict, now: float) -> None:
        """Keep what was taken ahead; what nobody asks for in time is lost."""
        advances = self._advances
        if taken or buckets not in advances or now >= advances[buckets].until:
            advances.pop(buckets, None)
            if len(advances) >= BUCKETS_REMEMBERED:
                del advances[next(iter(advances))]
            advances[buckets] = _Advance(taken, now + ADVANCE_SECONDS, verdict)

    async def _call(self, keys: Collection[str], numbers: bytes) -> list[int]:
        """A lost reply is not asked for again: the requests may have been counted."""
        try:
            if self._sha is None:
                self._sha = await self._command("SCRIPT LOAD", self._source)
            try:
                return await self._command("EVALSHA", self._sha, len(keys), *keys, numbers)
            except NoScriptError:
                self._sha = await self._command("SCRIPT LOAD", self._source)
                return await self._command("EVALSHA", self._sha, len(keys), *keys, numbers)
        except (RedisError, OSError) as exc:
            self._sha = None
            await self._give_back()
            raise Unavailable("Redis cannot be reached.") from exc

    async def _command(self, *words: Any) -> Any:
        """One command on a connection of our own: a client's way there and back costs as much again as the call."""
        if self._connection is None:
            self._pool = await pool_of(self._client, ADDRESS_PREFIX)
            self._connection = await self._pool.get_connection()
        await self._connection.send_command(*words)
        return await self._connection.read_response()

    async def _give_back(self) -> None:
        """In a cluster another node may have the buckets by now."""
        if isinstance(self._client, AsyncCluster):
            self._client.doubt()
            connection, self._connection = self._connection, None
            if connection is not None:
                await self._pool.release(connection)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Whom an address stands for: itself, or its network where one subscriber has many. What is no address is all one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, IPV6_NETWORK_BITS), strict=False).network_address)


class Turnstile:
    """How many of one kind of thing each caller may have open in this process at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: dict[str, int] = {}

    def enter(self, caller: str) -> bool:
        """Whether there is a place for this caller; if so it is taken until `leave`."""
        inside = self._inside.get(caller, 0)
        if inside >= self._limit:
            return False
        self._inside[caller] = inside + 1
        return True

    def leave(self, caller: str) -> None:
        """Give a place back."""
        left = self._inside[caller] - 1
        if left:
            self._inside[caller] = left
        else:
            del self._inside[caller]

    @contextmanager
    def place(self, caller: str) -> Iterator[bool]:
        """Whether there is a place for this caller; if so it is taken for as long as the context lasts."""
        is_inside = self.enter(caller)
        try:
            yield is_inside
        finally:
            if is_inside:
                self.leave(caller)
