"""Shutting the door in Redis while partitions are rearranged, and opening it again.

A partition that is marked as shut accepts nothing (core/lua/accept.lua). Whoever has not heard of a change cannot accept under
the old number afterwards: the heads are gone, and none is put where `aforo:{p}:lanes` says another number (core/lua/head.lua).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
from redis.exceptions import RedisError

from core.errors import Unavailable
from core.lanes import LANES_MAX
from core.mailbox import key
from core.model import partition_of_session

SHUT = "shut"


class Shutter:
    """Blocking. Raises Unavailable."""

    def __init__(self, client: redis.Redis, job_ttl_seconds: int) -> None:
        self._client = client
        self._job_ttl_seconds = job_ttl_seconds

    def mark(self, partitions: Iterable[int], text: str) -> None:
        """Heads are put only by who goes by these lanes. SHUT: by nobody, and nothing is accepted."""
        pipeline = self._client.pipeline(transaction=False)
        for partition in partitions:
            pipeline.set(key(partition, "lanes"), text)
        self._run(pipeline)

    def drop_heads(self, session_ids: Sequence[int], lanes: int) -> None:
        """Take out the heads of these sessions."""
        pipeline = self._client.pipeline(transaction=False)
        for session_id in session_ids:
            pipeline.unlink(key(partition_of_session(session_id, lanes), f"s:{session_id}"))
        self._run(pipeline)

    def waiting(self) -> list[int]:
        """The partitions that hold commands, whatever their number is."""
        pipeline = self._client.pipeline(transaction=False)
        for partition in range(LANES_MAX):
            pipeline.xlen(key(partition, "mailbox"))
        return [partition for partition, length in enumerate(self._run(pipeline)) if length]

    def begin_anew(self, partitions: Iterable[int]) -> None:
        """What jobs of before show is the ledger's to tell, for their sessions may be elsewhere now, and come back: as if this
        data set saw the partitions for the first time."""
        seconds, micros = self._run_one(self._client.time)
        now_ms = str(seconds * 1000 + micros // 1000)
        pipeline = self._client.pipeline(transaction=False)
        for partition in partitions:
            pipeline.set(key(partition, "doubt"), "1", ex=self._job_ttl_seconds)
            pipeline.set(key(partition, "born"), now_ms)
        self._run(pipeline)

    def _run(self, pipeline: Any) -> list[Any]:
        return self._run_one(pipeline.execute)

    def _run_one(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
