"""What a worker sees of the mailboxes from outside: where something waits, and whether somebody is at it.

Nothing here is under a partition's lock, so it may be old news when it is read: good for choosing, never for deciding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError, RedisError

from core.errors import Unavailable
from core.mailbox import key, script


@dataclass(frozen=True, slots=True)
class Sight:
    """A mailbox in which something waits. `is_taken`: a batch of it is under way, or a worker died over one."""

    partition: int
    waiting: int
    age_ms: int
    is_taken: bool


class Lookout:
    """Blocking. Raises Unavailable."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._source = script("look")
        self._sha: str | None = None
        self._release = client.register_script(script("release"))

    def look(self, partitions: Sequence[int]) -> list[Sight]:
        """Those in which something waits, in one round trip; of a cluster, as far as its nodes can be reached."""
        try:
            found = self._ask(partitions)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        told = [(p, answer) for p, answer in zip(partitions, found, strict=True) if not isinstance(answer, Exception)]
        return [Sight(p, *numbers, bool(taken)) for p, (*numbers, taken) in told if numbers[0]]

    def release(self, partition: int) -> int:
        """Let the next command that is accepted ring, unless something waits. How many entries do."""
        try:
            return self._release(keys=[key(partition, "mailbox")])
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc

    def _ask(self, partitions: Sequence[int]) -> list[Any]:
        if self._sha is None:
            self._sha = self._client.script_load(self._source)
        pipeline = self._client.pipeline(transaction=False)
        for partition in partitions:
            pipeline.evalsha(self._sha, 1, key(partition, "mailbox"))
        found = pipeline.execute(raise_on_error=False)
        if any(isinstance(answer, NoScriptError) for answer in found):
            self._sha = None  # next time; until then, nobody is seen there
        return found
