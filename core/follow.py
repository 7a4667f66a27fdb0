"""Waiting for outcomes: one standing subscription a process wakes whoever waits, without polling Postgres.

A waiter registers before it submits or reads, so that news between the two is not missed; after every (re)subscribe and
once a second all waiters look again, so that a lost message costs a second and not an answer. A waiter is an object that is
told: those that a message wakes are read together, and none of them needs a task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import redis.asyncio
from redis.exceptions import RedisError

from core.errors import Unavailable
from core.grouping import Waiter as Told
from core.mailbox import DONE_CHANNEL
from core.model import Job
from core.streams import JOB_ID_BYTES, Streams

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 1.0

Asked = tuple[str, int | None]  # a job, and its session if the state of that is asked for too
Outcome = Callable[[Job, str | None], None]  # told the decided job, and its session's state if that is known


class Waiter:
    """One request that waits for one job. It is told what was read of it as a future would be."""

    __slots__ = ("_asked", "_followers", "_has_news", "_is_reading", "_tell", "name")

    def __init__(self, followers: Followers, job_id: str, session_id: int | None) -> None:
        self._followers = followers
        self._asked = (job_id, session_id)
        self._has_news = self._is_reading = False
        self._tell: Outcome | None = None
        self.name = job_id.encode()

    def ask(self, tell: Outcome) -> None:
        """The job is there and was not decided yet: `tell` once, when it is. Who forgets the waiter is told nothing."""
        self._tell = tell
        if self._has_news:
            self.wake()

    def stop(self) -> None:
        """Nobody is to be told any more."""
        self._tell = None

    async def outcome(self, seconds: float) -> Job | None:
        """The job once it has its outcome, or None if that takes longer than `seconds`."""
        future: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self.ask(lambda job, _state: None if future.done() else future.set_result(job))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await future
        self.stop()
        return None

    def wake(self) -> None:
        """There may be news of the job."""
        if self._tell is None or self._is_reading:
            self._has_news = True
        else:
            self._has_news, self._is_reading = False, True
            self._followers.read(self._asked, self)

    def done(self) -> bool:
        """Whether nobody wants to know any more."""
        return self._tell is None

    def cancel(self) -> None:
        """The server is at its end."""

    def set_result(self, found: tuple[Job | None, str | None]) -> None:
        """What Redis has of the job, else the ledger is asked."""
        job, state = found
        if job is None:
            self._followers.recall(self, self._asked[0])
        else:
            self.found(job, state)

    def set_exception(self, exc: Exception) -> None:
        """The next look may succeed."""
        self._is_reading = False
        if not isinstance(exc, Unavailable):
            log.error("outcome_not_read", exc_info=exc)

    def found(self, job: Job | None, state: str | None = None) -> None:
        """This is all that is known of the job now."""
        self._is_reading = False
        if job is not None and job.outcome is not None and self._tell is not None:
            tell, self._tell = self._tell, None
            tell(job, state)
        elif self._has_news:
            self.wake()


class Followers:
    """All waiters of this process, and the subscription that wakes them, and tells its streams."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        read: Callable[[Asked, Told], None],
        recall: Callable[[str], Awaitable[Job | None]],
        streams: Streams,
    ) -> None:
        """`read(asked, waiter)` reads what Redis has, in groups, and tells the waiter; `recall(job_id)` asks the ledger too."""
        self._client = client
        self.read = read
        self._recall = recall
        self._streams = streams
        self._waiters: dict[bytes, set[Waiter]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._recalling: set[asyncio.Task[None]] = set()

    def register(self, job_id: str, session_id: int | None = None) -> Waiter:
        """A waiter for a job's outcome, until `forget`; do this before submitting or reading the job."""
        waiter = Waiter(self, job_id, session_id)
        self._waiters.setdefault(waiter.name, set()).add(waiter)
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """It waits no more."""
        waiter.stop()
        others = self._waiters[waiter.name]
        others.discard(waiter)
        if not others:
            del self._waiters[waiter.name]

    @contextmanager
    def waiter(self, job_id: str) -> Iterator[Waiter]:
        """The same for as long as the context lasts."""
        waiter = self.register(job_id)
        try:
            yield waiter
        finally:
            self.forget(waiter)

    def __len__(self) -> int:
        """How many jobs are waited for."""
        return len(self._waiters)

    def recall(self, waiter: Waiter, job_id: str) -> None:
        """Redis knows nothing of the job, which is rare enough for a task."""
        task = asyncio.create_task(self._recalled(waiter, job_id))
        self._recalling.add(task)
        task.add_done_callback(self._recalling.discard)

    async def _recalled(self, waiter: Waiter, job_id: str) -> None:
        try:
            waiter.found(await self._recall(job_id))
        except Exception as exc:
            waiter.set_exception(exc)

    def start(self) -> None:
        """Begin to listen, in the running event loop."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._look_again())]

    async def stop(self) -> None:
        """Stop listening."""
        tasks = [*self._tasks, *self._recalling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake_all(self) -> None:
        """Let every waiter look now."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake()

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
                waiter.wake()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            self.wake_all()
