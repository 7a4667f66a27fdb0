"""Redis, for erasing: what mailboxes still hold, heads and job records that have to go, and the append-only file, written anew.

Deleting does not take a byte out of the append-only file, nor out of a stream: entries lie in nodes of a hundred or so, and
a node goes when the last of them is deleted. So what is to be gone is waited for, and then the file is written anew.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from core.cluster import nodes_of
from core.entries import decode_job, encode_job, head_text
from core.errors import Unavailable
from core.mailbox import ERA_KEY, IDLE_HEAD_SECONDS, key, script
from core.model import Job, Session, partition_of_job, partition_of_session

NODE_ENTRIES = 100  # Redis's default of stream-node-max-entries
UNLIMITED = 2**62
REWRITE_SECONDS = 600.0
LOOK_SECONDS = 0.05
DELETE_LIMIT = 500
NOT_REWRITTEN = "Redis did not write its append-only file anew; its log says why."


class Scrub:
    """What erasing asks of Redis. Raises Unavailable."""

    def __init__(self, client: redis.Redis, partitions: int, job_ttl_seconds: int) -> None:
        self._client = client
        self._partitions = partitions
        self._job_ttl_seconds = job_ttl_seconds
        self._put_head = client.register_script(script("head"))
        self._retire = client.register_script(script("retire"))

    def newest(self, partition: int) -> str | None:
        """The newest entry of a mailbox; None where nothing waits."""
        found = self._run(partial(self._client.xrevrange, key(partition, "mailbox"), count=1))
        return found[0][0].decode() if found else None

    def has_passed(self, partition: int, entry: str) -> bool:
        """Whether this entry of a mailbox is gone, and all before it."""
        return not self._run(partial(self._client.xrange, key(partition, "mailbox"), max=entry, count=1))

    def accepted(self, partition: int) -> int:
        """How many entries a mailbox has ever had."""
        return self._stream(partition)[0]

    def has_left_behind(self, partition: int, accepted: int) -> bool:
        """Whether nothing is left of a mailbox's first `accepted` entries, not even in a node they share with later ones."""
        added, waiting = self._stream(partition)
        return waiting == 0 or added - waiting >= accepted + self._node_entries()

    def raise_head(self, session: Session) -> None:
        """Tell a session's head, where there is one, of a newer version: what an older one brings late is not taken any more."""
        partition = partition_of_session(session.id, self._partitions)
        if self._run(partial(self._client.exists, key(partition, f"s:{session.id}"))):
            for_new_ones = (session.last_seq, IDLE_HEAD_SECONDS, 0, 0)  # so they do not matter
            values = [session.id, head_text(session), session.version, *for_new_ones, str(self._partitions)]
            self._run(partial(self._put_head, keys=[key(partition, "mailbox")], args=values))

    def begin_era(self) -> None:
        """Have API processes drop whatever they keep of what they showed."""
        self._run(partial(self._client.set, ERA_KEY, secrets.token_hex(8)))

    def retire(self, partition: int, last_seqs: Mapping[int, int]) -> list[int]:
        """Take out the heads of sessions of which nothing waits; their ids."""
        pairs = [value for pair in last_seqs.items() for value in pair]
        return [int(found) for found in self._run(partial(self._retire, keys=[key(partition, "mailbox")], args=pairs))]

    def renew_jobs(self, jobs: Sequence[Job]) -> None:
        """Put the ledger's jobs in the place of records with a fingerprint: repeats go on being answered from them."""
        reading, writing = (self._client.pipeline(transaction=False) for _ in range(2))
        for job in jobs:
            reading.get(self._job_key(job.id))
        for job, record in zip(jobs, self._run(reading.execute), strict=True):
            if record is not None and decode_job(record, job.id).body_hash:
                writing.set(self._job_key(job.id), encode_job(job), ex=self._job_ttl_seconds, xx=True)
        self._run(writing.execute)

    def drop_jobs(self, job_ids: Sequence[str]) -> None:
        """Delete the records of jobs that are gone."""
        self._delete([self._job_key(job_id) for job_id in job_ids])

    def drop_heads(self, sessions: Sequence[int]) -> None:
        """Delete the heads of sessions that are gone."""
        self._delete([key(partition_of_session(session_id, self._partitions), f"s:{session_id}") for session_id in sessions])

    def rewrite_log(self) -> bool:
        """Have the append-only file written anew, from what there is now, and wait until the old one is replaced; in a cluster
        that of each node. False where there is none."""
        done = [self._rewrite_log_of(node) for node in self._run(partial(nodes_of, self._client))]
        return all(done)

    def _rewrite_log_of(self, node: redis.Redis) -> bool:
        until = time.monotonic() + REWRITE_SECONDS
        while not self._rewrite_begins(node):
            self._wait(until)
        while self._is_rewriting(info := self._persistence(node)):
            self._wait(until)
        if info["aof_enabled"] and info["aof_last_bgrewrite_status"] != "ok":
            raise Unavailable(NOT_REWRITTEN)
        return bool(info["aof_enabled"])

    def _rewrite_begins(self, node: redis.Redis) -> bool:
        """Start a rewrite; one under way has begun too early, so it has to end first."""
        info = self._persistence(node)
        if not info["aof_enabled"]:
            return True
        if self._is_rewriting(info):
            return False
        try:
            node.bgrewriteaof()
        except ResponseError as exc:
            if "in progress" in str(exc):
                return False
            raise Unavailable(f"Redis did not write its append-only file anew: {exc}") from exc
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        return True

    def _is_rewriting(self, info: Mapping[str, Any]) -> bool:
        return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])

    def _persistence(self, node: redis.Redis) -> Mapping[str, Any]:
        return self._run(partial(node.info, "persistence"))

    def _node_entries(self) -> int:
        found = self._run(partial(self._client.config_get, "stream-node-max-entries"))
        limits = [int(limit) or UNLIMITED for limit in found.values()]
        return max([NODE_ENTRIES, *limits])

    def _stream(self, partition: int) -> tuple[int, int]:
        """Of a mailbox: entries ever added, entries there are."""
        name = key(partition, "mailbox")
        if not self._run(partial(self._client.exists, name)):
            return 0, 0
        info = self._run(partial(self._client.xinfo_stream, name))
        return info["entries-added"], info["length"]

    def _job_key(self, job_id: str) -> str:
        return key(partition_of_job(job_id, self._partitions), f"job:{job_id}")

    def _delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), DELETE_LIMIT):
            pipeline = self._client.pipeline(transaction=False)
            for name in names[start : start + DELETE_LIMIT]:
                pipeline.unlink(name)  # each by itself: they may lie in different slots
            self._run(pipeline.execute)

    def _wait(self, until: float) -> None:
        if time.monotonic() > until:
            raise Unavailable(NOT_REWRITTEN)
        time.sleep(LOOK_SECONDS)

    def _run(self, call: Any) -> Any:
        try:
            return call()
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
