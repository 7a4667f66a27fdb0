"""What Redis says of Postgres, for holding one against the other: the heads of sessions, and the outcomes of jobs.

Nothing is told to Redis before it is committed. A head that is ahead of its session's row therefore says that Postgres has gone
back: it was restored, or a standby took over that had not received everything.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import RedisError

from core.entries import head_text, read_head
from core.errors import Unavailable
from core.mailbox import ERA_KEY, key, script
from core.model import Session, partition_of_session


@dataclass(frozen=True, slots=True)
class Claim:
    """Up to where Redis has heard of a session: the row's version, and the last command applied."""

    version: int
    last_seq: int


class Claims:
    """Blocking. Raises Unavailable."""

    def __init__(self, client: redis.Redis, partitions: int, job_ttl_seconds: int) -> None:
        self._client = client
        self._partitions = partitions
        self._job_ttl_seconds = job_ttl_seconds
        self._rewind = client.register_script(script("rewind"))

    def of(self, session_ids: Sequence[int]) -> list[Claim | None]:
        """What is claimed of these sessions, in their order; None of those that Redis does not know now."""
        pipeline = self._client.pipeline(transaction=False)
        for session_id in session_ids:
            pipeline.mget(key(partition_of_session(session_id, self._partitions), f"s:{session_id}"))
        heads = [None if text is None else read_head(text) for (text,) in self._run(pipeline.execute)]
        return [None if head is None else Claim(head.version, head.now.last_seq) for head in heads]

    def doubt(self) -> None:
        """From now on, what jobs show that are done already is the ledger's to tell, until Redis has forgotten them."""
        pipeline = self._client.pipeline(transaction=False)
        for partition in range(self._partitions):
            pipeline.set(key(partition, "doubt"), "1", ex=self._job_ttl_seconds)
        self._run(pipeline.execute)

    def begin_era(self) -> None:
        """What readers kept of before is worth nothing: versions may come again with something else in them."""
        self._run(lambda: self._client.set(ERA_KEY, secrets.token_hex(8)))

    def take_back(self, session: Session, claim: Claim) -> None:
        """Let the session's head say what the row says, unless it claims something else by now."""
        partition = partition_of_session(session.id, self._partitions)
        arguments = [session.id, claim.version, session.last_seq, head_text(session)]
        self._run(lambda: self._rewind(keys=[key(partition, "mailbox")], args=arguments))

    def _run(self, call: Any) -> Any:
        try:
            return call()
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
