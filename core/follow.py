"""Waiting for outcomes: one standing subscription a process wakes whoever waits, without polling Postgres.

A waiter registers before it submits or reads, so that news between the two is not missed; after every (re)subscribe and
once a second all waiters look again, so that a lost message costs a second and not an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import redis.asyncio
from redis.exceptions import RedisError

from core.errors import Unavailable
from core.mailbox import DONE_CHANNEL
from core.model import Job
from core.streams import JOB_ID_BYTES, Streams

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 1.0


class Waiter:
    """One request that waits for one job."""

    def __init__(self, read: Callable[[str], Awaitable[Job | None]], job_id: str) -> None:
        self._read = read
        self._job_id = job_id
        self.news = asyncio.Event()

    async def outcome(self, seconds: float) -> Job | None:
        """The job once it has its outcome, or None if that takes longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await self.news.wait()
                    self.news.clear()
                    with suppress(Unavailable):  # the next look may succeed
                        job = await self._read(self._job_id)
                        if job is not None and job.outcome is not None:
                            return job
        return None


class Followers:
    """All waiters of this process, and the subscription that wakes them, and tells its streams."""

    def __init__(
        self, client: redis.asyncio.Redis, read: Callable[[str], Awaitable[Job | None]], streams: Streams
    ) -> None:
        self._client = client
        self._read = read
        self._streams = streams
        self._waiters: dict[bytes, set[Waiter]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @contextmanager
    def waiter(self, job_id: str) -> Iterator[Waiter]:
        """Register for a job's outcome; do this before submitting or reading it."""
        waiter = Waiter(self._read, job_id)
        name = job_id.encode()
        self._waiters.setdefault(name, set()).add(waiter)
        try:
            yield waiter
        finally:
            others = self._waiters[name]
            others.discard(waiter)
            if not others:
                del self._waiters[name]

    def start(self) -> None:
        """Begin to listen, in the running event loop."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._look_again())]

    async def stop(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wake_all(self) -> None:
        """Let every waiter look now."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.news.set()

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.pubsub() as subscription:
                    await subscription.subscribe(DONE_CHANNEL)
                    while True:
                        message = await subscription.get_message(timeout=30)
                        if message is None:
                            await subscription.ping()
                        elif message["type"] == "subscribe":
                            self.wake_all()
                            self._streams.look_again()
                        elif message["type"] == "message":
                            self._wake(message["data"])
                            self._streams.told(message["data"])
            except (RedisError, OSError) as exc:
                log.warning("subscription_lost", extra={"reason": type(exc).__name__})
                await asyncio.sleep(0.2)

    def _wake(self, job_ids: bytes) -> None:
        if not self._waiters:
            return
        for start in range(0, len(job_ids), JOB_ID_BYTES):
            for waiter in self._waiters.get(job_ids[start : start + JOB_ID_BYTES], ()):
                waiter.news.set()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            self.wake_all()
