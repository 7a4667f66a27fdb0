"""Signs of life: what each worker process and sweeper tells of itself through Redis, so that one page can show all of them.

Every other second a process says that it is there, and adds what it has applied since to what all have together, in slots of
time that expire. The sweeper also writes how much the mailboxes have taken in and how much they hold. Nothing here is needed for
a command to be applied: a beat that fails is left out.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
import redis
from redis.exceptions import RedisError

from core import telemetry
from core.mailbox import key
from core.model import Frozen

WORKER: Final = "worker"
SWEEPER: Final = "sweeper"
BEAT_SECONDS: Final = 2.0
SLOT_SECONDS: Final = 2
SLOT_TTL_SECONDS: Final = 900
DEAD_SECONDS: Final = 86_400  # after so long nobody is told of it any more
ALIVE_KEY: Final = "aforo:{operations}:alive"
SLOT_KEY: Final = "aforo:{operations}:slot:%d"

# Of a slot: counts of outcomes by kind, of latencies by bucket, and what the sweeper saw last.
OUTCOME, LATENCY = "o:", "l:"
AT, ADDED, WAITING = "at", "added", "waiting"


class SignOfLife(Frozen):
    """What a process last said of itself; times in milliseconds, `at` by Redis's clock."""

    kind: str
    at: int
    since: int


_sign = msgspec.json.Decoder(SignOfLife)


def read_sign(record: bytes) -> SignOfLife | None:
    """A sign of life as it lies in Redis; None for what is none."""
    try:
        return _sign.decode(record)
    except msgspec.MsgspecError:
        return None


def filling(client: redis.Redis, partitions: int) -> tuple[int, int]:
    """How many entries all mailboxes have ever taken in, and how many they hold."""
    pipeline = client.pipeline(transaction=False)
    for partition in range(partitions):
        pipeline.xinfo_stream(key(partition, "mailbox"))
    found = [info for info in pipeline.execute(raise_on_error=False) if isinstance(info, dict)]
    return sum(info["entries-added"] for info in found), sum(info["length"] for info in found)


class Pulse:
    """The beats of one process, from a thread of its own."""

    def __init__(self, client: redis.Redis, kind: str, partitions: int) -> None:
        self._client = client
        self._kind = kind
        self.partitions = partitions  # which may be told anew: lanes that change
        self._name = f"{kind}:{socket.gethostname()}-{os.getpid()}"
        self._since = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """The process ends in order: what it still has to tell is told, and nobody waits for its next sign."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(BEAT_SECONDS)
        with contextlib.suppress(RedisError, OSError):
            self._client.hdel(ALIVE_KEY, self._name)

    def beat(self) -> None:
        """One sign of life, with all that was applied since the last. Raises what redis-py does."""
        seconds, micros = self._client.time()
        now_ms = seconds * 1000 + micros // 1000
        self._since = self._since or now_ms
        slot = SLOT_KEY % (now_ms // 1000 // SLOT_SECONDS)
        lately = telemetry.LATELY.take()
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hset(ALIVE_KEY, self._name, msgspec.json.encode(SignOfLife(self._kind, now_ms, self._since)))
        for (kind, outcome), count in lately.outcomes.items():
            pipeline.hincrby(slot, f"{OUTCOME}{kind}/{outcome}", count)
        for bucket, count in enumerate(lately.buckets):
            if count:
                pipeline.hincrby(slot, f"{LATENCY}{bucket}", count)
        if self._kind == SWEEPER:
            added, waiting = filling(self._client, self.partitions)
            pipeline.hset(slot, mapping={AT: now_ms, ADDED: added, WAITING: waiting})
        pipeline.expire(slot, SLOT_TTL_SECONDS)
        pipeline.execute()

    def forget_the_dead(self) -> None:
        """Leave out those that said nothing for a day. Raises what redis-py does."""
        before = time.time() * 1000 - DEAD_SECONDS * 1000
        signs: dict[bytes, bytes] = self._client.hgetall(ALIVE_KEY)
        dead = [name for name, record in signs.items() if (sign := read_sign(record)) is None or sign.at < before]
        if dead:
            self._client.hdel(ALIVE_KEY, *dead)

    def _run(self) -> None:
        self._quietly(self.forget_the_dead)
        while True:
            self._quietly(self.beat)
            if self._stopping.wait(BEAT_SECONDS):
                self._quietly(self.beat)
                return

    def _quietly(self, step: Callable[[], None]) -> None:
        with contextlib.suppress(RedisError, OSError):
            step()
