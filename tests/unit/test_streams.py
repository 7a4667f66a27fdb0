"""Feeds by themselves: what is read how often, and what a viewer is given when it takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from core import streams
from core.errors import Unavailable
from core.model import new_job_id
from core.streams import Feed, Over, Streams, Viewer, prefix_of_job, prefix_of_session

SESSION = 7
SECONDS = 20


class Counter:
    """Something that is looked at; `readings` of it, each of which may fail."""

    def __init__(self) -> None:
        self.value: int | None = 0
        self.readings = 0
        self.fails = False

    async def read(self, _key: int) -> int | None:
        self.readings += 1
        await asyncio.sleep(0)
        if self.fails:
            raise Unavailable
        return self.value


def watched(scenario: Callable[[Counter, Feed], Awaitable[None]]) -> None:
    """Run a scenario on a feed of a session."""

    async def run() -> None:
        counter = Counter()
        feed: Feed[int, int] = Feed(counter.read, prefix_of_session)
        rounds = asyncio.create_task(feed.run())
        try:
            async with asyncio.timeout(SECONDS):
                await scenario(counter, feed)
        finally:
            rounds.cancel()

    asyncio.run(run())


def news(feed: Feed) -> None:
    feed.told(new_job_id(SESSION).encode() + new_job_id(SESSION + 1).encode())


def test_many_changes_are_few_readings_and_the_latest_is_told() -> None:
    async def scenario(counter: Counter, feed: Feed) -> None:
        viewer = feed.viewer(SESSION)
        assert await viewer.next() == 0
        before = counter.readings
        for value in range(1, 1001):
            counter.value = value
            news(feed)
            if not value % 10:
                await asyncio.sleep(0)
        while await viewer.next() != 1000:
            pass
        assert counter.readings - before < 100

    watched(scenario)


def test_who_takes_its_time_is_given_the_latest_and_nothing_of_before() -> None:
    async def scenario(counter: Counter, feed: Feed) -> None:
        slow, quick = feed.viewer(SESSION), feed.viewer(SESSION)
        assert (await slow.next(), await quick.next()) == (0, 0)
        for value in (1, 2, 3):
            counter.value = value
            news(feed)
            assert await quick.next() == value
        assert await slow.next() == 3
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow.next(), 0.3)

    watched(scenario)


def test_what_was_read_before_somebody_came_is_not_told_to_them() -> None:
    async def scenario(counter: Counter, feed: Feed) -> None:
        first = feed.viewer(SESSION)
        assert await first.next() == 0
        counter.value = 1  # of which no news came
        second = feed.viewer(SESSION)
        assert await second.next() == 1
        assert await first.next() == 1

    watched(scenario)


def test_news_of_another_session_is_no_news() -> None:
    async def scenario(counter: Counter, feed: Feed) -> None:
        viewer = feed.viewer(SESSION)
        await viewer.next()
        before = counter.readings
        feed.told(new_job_id(SESSION + 1).encode())
        await asyncio.sleep(0.3)
        assert counter.readings == before

    watched(scenario)


def test_what_cannot_be_read_is_read_again_and_what_is_gone_ends_its_viewers() -> None:
    async def scenario(counter: Counter, feed: Feed) -> None:
        viewer = feed.viewer(SESSION)
        await viewer.next()
        counter.fails, counter.value = True, 1
        news(feed)
        before = counter.readings
        while counter.readings == before:
            await asyncio.sleep(0.01)
        counter.fails = False
        feed.look_again(streams.LOOK_AGAIN_SECONDS)
        assert await viewer.next() == 1
        counter.value = None
        news(feed)
        with pytest.raises(Over):
            await viewer.next()

    watched(scenario)


def test_what_nobody_looks_at_any_more_is_forgotten() -> None:
    async def scenario(counter: Counter, feed: Feed) -> None:
        viewers = [feed.viewer(SESSION) for _ in range(3)]
        for viewer in viewers:
            await viewer.next()
            feed.leave(viewer)
        before = counter.readings
        news(feed)
        feed.look_again()
        await asyncio.sleep(0.3)
        assert (counter.readings, list(feed.viewers())) == (before, [])

    watched(scenario)


def test_a_job_is_looked_at_for_its_own_news_and_later_for_its_sessions() -> None:
    async def scenario() -> None:
        readings: list[str] = []

        async def read(job_id: str) -> int:
            readings.append(job_id)
            return len(readings)

        feed: Feed[str, int] = Feed(read, prefix_of_job, by_id=True)
        rounds = asyncio.create_task(feed.run())
        mine = new_job_id(SESSION)
        viewer = feed.viewer(mine)
        assert await viewer.next() == 1
        feed.told(mine.encode())
        assert await viewer.next() == 2
        feed.told(new_job_id(SESSION).encode())
        assert await viewer.next() == 3
        rounds.cancel()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_what_changes_by_the_clock_is_looked_at_when_its_time_has_come() -> None:
    async def scenario() -> None:
        counter = Counter()
        until_then = [0.3, 0.2, None]  # a clock that was not there yet when it was looked at is waited for once more
        feed: Feed[int, int] = Feed(counter.read, prefix_of_session, turns=lambda _: until_then.pop(0) if until_then else None)
        rounds = asyncio.create_task(feed.run())
        viewer = feed.viewer(SESSION)
        for value in range(3):
            assert await viewer.next() == value
            counter.value = value + 1
        assert (counter.readings, until_then) == (3, [])
        feed.leave(viewer)
        rounds.cancel()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_silence_is_broken_and_revoked_keys_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(streams, "TICK_SECONDS", 0.05)

    async def scenario() -> None:
        revoked: set[str] = set()

        async def is_valid(token: str) -> bool:
            return token not in revoked

        counter = Counter()
        feeds = [Feed(counter.read, prefix_of_session) for _ in range(4)]
        found = Streams(*feeds, is_valid)
        found.start()
        leaving, staying = (feeds[1].viewer(SESSION, token) for token in ("old", "new"))
        for viewer in (leaving, staying):
            assert await viewer.next() == 0
            assert await viewer.next() is None  # a sign of life
        revoked.add("old")
        with pytest.raises(Over):
            await _to_the_end(leaving)
        assert not staying.is_over
        await found.stop()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


async def _to_the_end(viewer: Viewer) -> None:
    while True:
        await viewer.next()
