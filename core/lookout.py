"""What a worker sees of the mailboxes from outside: where something waits, and whether somebody is at it.

Nothing here is under a partition's lock, so it may be old news when it is read: good for choosing, never for deciding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import redis
from redis.exceptions import RedisError

from core.cluster import Cluster
from core.errors import Unavailable
from core.exchange import Exchange, Scripts
from core.mailbox import BELL_MS, Sight, key, looks, script, sights

LOOK_AGAIN_SECONDS = 0.002  # in a cluster, where nobody can wait for several mailboxes at once


class Lookout:
    """Blocking. Raises Unavailable."""

    def __init__(self, client: redis.Redis, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._sleep = sleep
        self._exchange = Exchange(client)
        self._look = Scripts(client, self._exchange, script("look"))
        self._release = Scripts(client, self._exchange, script("release"))

    def look(self, partitions: Sequence[int], keep_bells: bool = False) -> list[Sight]:
        """Those in which something waits, in one round trip; of a cluster, as far as its nodes can be reached.

        `keep_bells`: whoever looks is there and will look again, so nobody has to ring for a while.
        """
        return sights(partitions, self._look.tried(looks(partitions, BELL_MS if keep_bells else 0)))

    def wait(self, partitions: Sequence[int], seconds: float) -> list[int]:
        """Where something comes in, as soon as it does; nothing after so many seconds, or earlier."""
        if not partitions or isinstance(self._client, Cluster):
            self._sleep(min(seconds, LOOK_AGAIN_SECONDS))
            return []
        mailboxes = {key(partition, "mailbox"): partition for partition in partitions}
        milliseconds = max(1, int(seconds * 1000))
        asked = ("XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", *mailboxes, *("0" for _ in mailboxes))
        try:
            (found,) = self._exchange([asked])
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        if isinstance(found, Exception):
            raise Unavailable("Redis cannot be reached.") from found
        return [mailboxes[name.decode()] for name, _ in found or ()]

    def release(self, partitions: Sequence[int]) -> list[int]:
        """Let the next command that is accepted ring, unless something waits. Where something does."""
        left = self._release([(key(partition, "mailbox"), ()) for partition in partitions])
        return [partition for partition, waiting in zip(partitions, left, strict=True) if waiting]
