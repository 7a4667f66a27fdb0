"""Whether what a process has read before is still what it would read now: asked of Redis once for all requests that wait.

Whatever readers can see of a session moves a word of its partition (`changes`, see core/lua/accept.lua) before anybody is told
of it. So what was read when the words were the same as in a `Reading` that was begun after a request arrived holds all that its
client was told of. What data loss could bring back under the same words is told apart by the epoch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import redis.asyncio
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from core.cluster import AsyncCluster
from core.errors import Unavailable
from core.grouping import Grouped
from core.lanes import Lanes
from core.mailbox import ERA_KEY, key

READ_LIMIT: Final = 512
BEGIN_SECONDS: Final = 1.0
LANES_KEY: Final = key(0, "lanes")  # where partitions are rearranged, it says which there are, or that the door is shut


class Reading:
    """The words of all partitions at a moment. `number` grows with each; in a new `epoch` nothing that was read before counts."""

    __slots__ = ("epoch", "number", "words")

    def __init__(self, number: int, epoch: int, words: tuple[bytes | None, ...]) -> None:
        self.number = number
        self.epoch = epoch
        self.words = words

    @property
    def is_whole(self) -> bool:
        """Whether every partition has its word."""
        return None not in self.words


class Freshness:
    """Reads the words. Raises Unavailable when Redis cannot be reached.

    The epoch changes with the connection: whoever takes over for a server that failed may have lost the last of its writes, so
    that the words of before stand for less than they did. It changes with `era` too, which whatever rewrites history sets, and
    at every reading as long as Redis knows of other partitions than these.
    """

    def __init__(self, client: redis.asyncio.Redis, partitions: Lanes) -> None:
        """`client` is nobody else's: its one connection is kept. Of a cluster's nodes any could be replaced without a connection
        of ours breaking, so there nothing that was read before counts."""
        self._client = client
        self._is_cluster = isinstance(client, AsyncCluster)
        self._connection: Any = None
        self._partitions = partitions
        self._lanes = ""
        self._names: list[str] = []
        self._begun_at = -BEGIN_SECONDS
        self._epoch = 0
        self._era: bytes | None = None
        self._look_at_lanes()
        self.latest = Reading(0, 0, (None,) * len(self._names))
        self._grouped: Grouped[None, Reading] = Grouped(self._read, READ_LIMIT)

    async def __call__(self) -> Reading:
        """The words as they are now, read in a round trip that begins after this call."""
        return await self._grouped(None)

    async def _read(self, asks: Sequence[None]) -> Sequence[Reading]:
        if self._is_cluster:
            self._epoch += 1
            self.latest = Reading(self.latest.number + 1, self._epoch, self.latest.words)
            return [self.latest] * len(asks)
        try:
            found = await self._asked()
        except RedisTimeout as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        except (RedisError, OSError):
            try:  # a server that has restarted since
                found = await self._asked()
            except (RedisError, OSError) as exc:
                raise Unavailable("Redis cannot be reached.") from exc
        *words, era, lanes = found
        if era != self._era:
            self._era = era
            self._epoch += 1
        if lanes is not None and lanes.decode() != self._lanes:  # changes are told of elsewhere than where this process looks
            self._epoch += 1
        if None in words:
            await self._begin(words)
        latest = self.latest
        same = tuple(words) if tuple(words) != latest.words else latest.words  # one object, which is compared at once
        self.latest = Reading(latest.number + 1, self._epoch, same)
        return [self.latest] * len(asks)

    async def _asked(self) -> list[bytes | None]:
        if str(self._partitions) != self._lanes:
            self._look_at_lanes()
        try:
            return await self._command("MGET", *self._names, ERA_KEY, LANES_KEY)
        except BaseException:
            self._epoch += 1
            raise

    def _look_at_lanes(self) -> None:
        """Read the words of as many partitions as there are."""
        self._epoch += 1
        self._lanes = str(self._partitions)
        self._names = [key(partition, "changes") for partition in range(self._partitions)]

    async def _begin(self, words: Sequence[bytes | None]) -> None:
        """Give partitions a word that have none: no change has been published in this data set yet. Where Redis takes no writes
        nothing is kept of them."""
        now = time.monotonic()
        if now - self._begun_at < BEGIN_SECONDS:
            return
        self._begun_at = now
        for name, word in zip(self._names, words, strict=True):
            if word is None:
                try:
                    await self._command("SET", name, time.time_ns() // 1000, "NX")
                except ResponseError:
                    return
                except (RedisError, OSError) as exc:
                    raise Unavailable("Redis cannot be reached.") from exc

    async def _command(self, *words: Any) -> Any:
        """One command on a connection of our own, so that its loss is noticed."""
        if self._connection is None:
            self._connection = await self._client.connection_pool.get_connection()
        elif not self._connection.is_connected:
            await self._connection.connect()
        (reply,) = await self._connection.exchange([words])
        if isinstance(reply, RedisError):
            raise reply
        return reply
