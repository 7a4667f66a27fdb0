"""Live streams: what many clients look at is read once when there is news of it, and each is given the latest when it takes it.

`Feed` has one topic for each thing that is looked at (a job, a session), however many viewers it has. News comes from the one
subscription of the process (core/follow.py): a done job's id names it, and begins with the 32 bits that name its session.
Rounds bound the work: what changes a thousand times a second is read ten times, and told to many a little later; a viewer holds
nothing but the number of the last state it was given, so who is slow skips what is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Generic, TypeVar
from zlib import crc32

from core.errors import Unavailable

log = logging.getLogger(__name__)

ROUND_SECONDS: Final = 0.1  # at least, between two readings of a thing
INDIRECT_SECONDS: Final = 0.5  # for what may have changed because something else has
EVENTS_PER_SECOND: Final = 2000  # of one process, to all viewers of a feed together; beyond, rounds take longer
TELL_AT_ONCE: Final = 25  # viewers, before other requests have their turn
LOOK_AGAIN_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 15.0  # then a comment tells that the stream is alive
TICK_SECONDS: Final = 1.0
JOB_ID_BYTES: Final = 36
PREFIX_BYTES: Final = 8

Key = TypeVar("Key", int, str)
Value = TypeVar("Value")


class Over(Exception):
    """Raised by a viewer that has nothing more to show: closed, revoked, or what it looked at is gone."""


class _Topic(Generic[Key, Value]):
    """One thing that is looked at. `begun` counts its readings, `reading` is the last that ended, `state` counts changes."""

    __slots__ = ("begun", "key", "looked_at", "prefix", "reading", "state", "turn", "value", "viewers")

    def __init__(self, key: Key, prefix: bytes) -> None:
        self.key = key
        self.prefix = prefix
        self.viewers: set[Viewer] = set()
        self.value: Value | None = None
        self.begun = self.reading = self.state = 0
        self.looked_at = 0.0
        self.turn: asyncio.TimerHandle | None = None


class Viewer(Generic[Value]):
    """One stream's place at a topic."""

    __slots__ = ("_from_reading", "_given_at", "_state", "_topic", "_waiting", "is_over", "token")

    def __init__(self, topic: _Topic, token: str | None) -> None:
        self._topic = topic
        self._from_reading = topic.begun + 1  # what was read before it came may be older than what its client knows
        self._given_at = time.monotonic()
        self._state = -1
        self._waiting: asyncio.Future[None] | None = None
        self.token = token
        self.is_over = False

    async def next(self) -> Value | None:
        """The latest, once it is another than the last given; None when a sign of life is due. Raises Over."""
        topic = self._topic
        while True:
            if self.is_over:
                raise Over
            if topic.reading >= self._from_reading and topic.state != self._state and topic.value is not None:
                self._state = topic.state
                self._given_at = time.monotonic()
                return topic.value
            if self.is_silent(time.monotonic()):
                self._given_at = time.monotonic()
                return None
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def lacks(self, state: int) -> bool:
        """Whether it was given another state last, or none."""
        return self._state != state

    def is_silent(self, now: float) -> bool:
        """Whether it was given nothing for a while."""
        return now - self._given_at >= SILENCE_SECONDS

    def wake(self) -> None:
        """Let it look."""
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def end(self) -> None:
        """It is over, whoever says so: the client is gone, the server stops, the key was revoked."""
        self.is_over = True
        self.wake()


class Feed(Generic[Key, Value]):
    """All that is looked at of one kind. `read(key)` gives its present state, or None when there is none (any more).

    `prefix(key)` is how the ids of the jobs begin whose outcomes may change it; `by_id`: the keys are job ids themselves. What no
    news came of is read again after `look_again_seconds`, so that a lost message costs so much. `turns(value)`: seconds until it
    becomes another by the clock alone, if it does.
    """

    def __init__(
        self,
        read: Callable[[Key], Awaitable[Value | None]],
        prefix: Callable[[Key], bytes],
        by_id: bool = False,
        look_again_seconds: float = LOOK_AGAIN_SECONDS,
        turns: Callable[[Value], float | None] | None = None,
    ) -> None:
        self.look_again_seconds = look_again_seconds
        self._read = read
        self._prefix = prefix
        self._by_id = by_id
        self._turns = turns
        self._topics: dict[Key, _Topic[Key, Value]] = {}
        self._of_prefix: dict[bytes, set[Key]] = {}
        self._due: set[Key] = set()
        self._due_later: set[Key] = set()
        self._news = asyncio.Event()

    def viewer(self, key: Key, token: str | None = None) -> Viewer[Value]:
        """A place to look from; give it back with `leave`. `token`: the key that lets it look."""
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = _Topic(key, self._prefix(key))
            self._of_prefix.setdefault(topic.prefix, set()).add(key)
        viewer: Viewer[Value] = Viewer(topic, token)
        topic.viewers.add(viewer)
        self._want(key)
        return viewer

    def leave(self, viewer: Viewer[Value]) -> None:
        """It is given back; what nobody looks at any more is forgotten."""
        topic = viewer._topic
        topic.viewers.discard(viewer)
        if topic.viewers or self._topics.get(topic.key) is not topic:
            return
        del self._topics[topic.key]
        if topic.turn is not None:
            topic.turn.cancel()
        alike = self._of_prefix[topic.prefix]
        alike.discard(topic.key)
        if not alike:
            del self._of_prefix[topic.prefix]

    def viewers(self) -> Iterable[Viewer[Value]]:
        """All of them."""
        return [viewer for topic in self._topics.values() for viewer in topic.viewers]

    def told(self, job_ids: bytes) -> None:
        """These jobs have their outcomes."""
        if not self._topics:
            return
        for start in range(0, len(job_ids), JOB_ID_BYTES):
            keys = self._of_prefix.get(job_ids[start : start + PREFIX_BYTES])
            if keys is None:
                continue
            if not self._by_id:
                self._due |= keys
                self._news.set()
                continue
            self._due_later |= keys
            job_id = job_ids[start : start + JOB_ID_BYTES].decode()
            if job_id in self._topics:
                self._want(job_id)  # type: ignore[arg-type]

    def look_again(self, older_than_seconds: float = 0.0) -> None:
        """Read what was not read for so long: news of it may have been lost."""
        before = time.monotonic() - older_than_seconds
        self._due |= {topic.key for topic in self._topics.values() if topic.looked_at <= before}
        if self._due:
            self._news.set()

    def _want(self, key: Key) -> None:
        self._due.add(key)
        self._news.set()

    def _await_turn(self, topic: _Topic[Key, Value], value: Value) -> None:
        """Look at it when its time has come. What is further off than the next look is seen to by that one."""
        if self._turns is None:
            return
        if topic.turn is not None:
            topic.turn.cancel()
            topic.turn = None
        seconds = self._turns(value)
        if seconds is not None and seconds < 2 * self.look_again_seconds and topic.viewers:
            topic.turn = asyncio.get_running_loop().call_later(seconds, self._want, topic.key)

    async def run(self) -> None:
        """Rounds, for ever: read what there is news of, tell it, rest."""
        later_at = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INDIRECT_SECONDS if self._due_later else None):
                    await self._news.wait()
            self._news.clear()
            began = time.monotonic()
            if began >= later_at:
                self._due |= self._due_later
                self._due_later = set()
                later_at = began + INDIRECT_SECONDS
            due, self._due = self._due, set()
            events = len(due) + sum(await asyncio.gather(*map(self._round, due)))
            await asyncio.sleep(began + max(ROUND_SECONDS, events / EVENTS_PER_SECOND) - time.monotonic())

    async def _round(self, key: Key) -> int:
        """Read one thing and tell its viewers, if it has changed; how many were told."""
        topic = self._topics.get(key)
        if topic is None:
            return 0
        topic.begun = reading = topic.begun + 1
        topic.looked_at = time.monotonic()
        try:
            value = await self._read(key)
        except Unavailable:
            topic.looked_at = 0.0  # the next tick looks again
            return 0
        except Exception:
            log.exception("stream_not_read")
            return 0
        topic.reading = reading
        if value is None:
            for viewer in list(topic.viewers):
                viewer.end()
            return 0
        self._await_turn(topic, value)
        if value != topic.value:
            topic.value = value
            topic.state += 1
        told = [viewer for viewer in topic.viewers if viewer.lacks(topic.state)]
        for at, viewer in enumerate(told, 1):
            viewer.wake()
            if not at % TELL_AT_ONCE:
                await asyncio.sleep(0)
        return len(told)


class Streams:
    """The feeds of this process, and what keeps all their viewers alive and honest."""

    def __init__(
        self, jobs: Feed, sessions: Feed, pages: Feed, operations: Feed, is_valid: Callable[[str], Awaitable[bool]]
    ) -> None:
        """`is_valid(key)`: whether it still opens anything; raises Unavailable when that cannot be told."""
        self.jobs = jobs
        self.sessions = sessions
        self.pages = pages
        self.operations = operations
        self._feeds = (jobs, sessions, pages, operations)
        self._is_valid = is_valid
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._tasks = [asyncio.create_task(feed.run()) for feed in self._feeds]
        self._tasks.append(asyncio.create_task(self._tick()))

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def told(self, job_ids: bytes) -> None:
        """The subscription brought news: these jobs have their outcomes."""
        for feed in self._feeds:
            feed.told(job_ids)

    def look_again(self) -> None:
        """The subscription is new: whatever came before is not known."""
        for feed in self._feeds:
            feed.look_again()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            viewers = [viewer for feed in self._feeds for viewer in feed.viewers()]
            for viewer in viewers:
                if viewer.is_silent(now):
                    viewer.wake()
            for feed in self._feeds:
                feed.look_again(feed.look_again_seconds)
            await self._turn_away(viewers)

    async def _turn_away(self, viewers: list[Viewer]) -> None:
        """End the streams of keys that open nothing any more."""
        tokens = {viewer.token for viewer in viewers if viewer.token is not None}
        gone = set()
        for token in tokens:
            with suppress(Unavailable):  # who cannot be judged stays
                if not await self._is_valid(token):
                    gone.add(token)
        for viewer in viewers:
            if viewer.token in gone:
                viewer.end()


def no_prefix(_key: str) -> bytes:
    """Of what changes all the time, whatever jobs are done: it is looked at again and again."""
    return b""


def prefix_of_session(session_id: int) -> bytes:
    """How the ids of a session's jobs begin."""
    return b"%08x" % crc32(b"%d" % session_id)


def prefix_of_job(job_id: str) -> bytes:
    """How the ids of the jobs of the same session begin."""
    return job_id[:PREFIX_BYTES].encode()
