"""Group commit for calls: what arrives while a call is under way waits for it, then goes together in the next one.

With one caller a group holds one item and nothing waits; under load a round trip's cost is shared by many. Every group is
begun after each of its items arrived, so a read through it is never older than its request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Waiter(Protocol):
    """Whoever is told an answer, as a future is: by a call, in the event loop's next turn."""

    def done(self) -> bool: ...
    def set_result(self, answer: Any, /) -> None: ...
    def set_exception(self, exc: Exception, /) -> None: ...
    def cancel(self) -> Any: ...


class Lot(Protocol):
    """Many items in one, which may have to go in several groups."""

    def __len__(self) -> int: ...
    def split(self, count: int, /) -> tuple[Any, Any]: ...


class _Part(Generic[Answer]):
    """An item, or a lot, of those that are waited for together; it takes the place of a future of its own."""

    __slots__ = ("size", "whole")

    def __init__(self, whole: _Whole[Answer], size: int) -> None:
        self.whole = whole
        self.size = size

    def done(self) -> bool:
        return self.whole.future.done()

    def set_result(self, answer: Answer | Exception) -> None:
        self.whole.put(self.size, answer)

    set_exception = set_result

    def cancel(self) -> None:
        self.whole.future.cancel()


class _Whole(Generic[Answer]):
    """The answers to all of them, in their order, each with how much it is of; and the one future that has them in the end."""

    __slots__ = ("_answers", "_left", "future")

    def __init__(self, count: int) -> None:
        self._answers: list[tuple[int, Answer | Exception]] = []
        self._left = count
        self.future: asyncio.Future[list[tuple[int, Answer | Exception]]] = asyncio.get_running_loop().create_future()

    def put(self, size: int, answer: Answer | Exception) -> None:
        self._answers.append((size, answer))
        self._left -= size
        if not self._left:
            self.future.set_result(self._answers)


class Grouped(Generic[Item, Answer]):
    """Calls `call(items)` for groups of at most `limit` items; it answers as many results, in order.

    A result that is an exception is raised at its own item only; an exception of the call is raised at all of them. A lot
    counts as what is in it, has one result, and goes in two where a group has no room for all of it.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        limit: int,
        pause_seconds: Callable[[], float] = lambda: 0.0,
        limit_after_pause: int = 1,
    ) -> None:
        """`pause_seconds()`: how long the next group is waited with; it has `limit_after_pause` items at most then."""
        self._call = call
        self._limit = limit
        self._alone = self._called = self._left = 0
        self.together = 0  # how many wait that came with others
        self.served = 0  # that came alone
        self._pause_seconds = pause_seconds
        self._limit_after_pause = limit_after_pause
        self._waiting: list[tuple[Item, Waiter]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.post(item, future)
        return await future

    def post(self, item: Item, waiter: Waiter) -> None:
        """The same without waiting: `waiter` is told."""
        self._waiting.append((item, waiter))
        self._alone += 1
        if self._running is None:
            self._begin()

    async def all(self, items: Sequence[Item]) -> list[Answer | Exception]:
        """Each item's answer or exception, with one future for all of them."""
        if not items:
            return []
        whole: _Whole[Answer] = _Whole(len(items))
        part = _Part(whole, 1)
        return [answer for _, answer in await self._together(whole, [(item, part) for item in items], len(items))]

    async def lots(self, lots: Sequence[Item]) -> list[tuple[int, Answer | Exception]]:
        """The same of lots, none of them empty: of how many each answer is, and the answer, in the order of what is in them."""
        if not lots:
            return []
        sizes = [len(lot) for lot in lots]  # type: ignore[arg-type]
        whole: _Whole[Answer] = _Whole(sum(sizes))
        parts = [(lot, _Part(whole, size)) for lot, size in zip(lots, sizes, strict=True)]
        return await self._together(whole, parts, sum(sizes))

    async def _together(
        self, whole: _Whole[Answer], parts: Sequence[tuple[Item, _Part[Answer]]], count: int
    ) -> list[tuple[int, Answer | Exception]]:
        self._waiting += parts
        self.together += count
        if self._running is None:
            self._begin()
        return await whole.future

    def __len__(self) -> int:
        """How many that came alone wait for the next groups."""
        return self._alone

    @property
    def under_way(self) -> int:
        """How many that came alone wait, or are in the call that is under way."""
        return self._alone + self._called

    @property
    def is_behind(self) -> bool:
        """Whether the last group left somebody behind that came alone."""
        return self._left > 0

    def _begin(self) -> None:
        self._running = asyncio.create_task(self._run())

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits, and no call is under way."""
        return self._running is None and not self._waiting

    async def _run(self) -> None:
        try:
            while self._waiting:
                limit = self._limit
                if pause := self._pause_seconds():
                    limit = self._limit_after_pause
                    await asyncio.sleep(pause)
                group = self._next(limit)
                self._left = self._alone = self._alone - self._called
                try:
                    answers = await self._call([item for item, _ in group])
                except Exception as exc:
                    answers = [exc] * len(group)
                self.served += self._called
                self._called = 0
                asyncio.get_running_loop().call_soon(_tell, group, answers)  # while the next call is under way
        finally:
            self._running = None
            for _, waiter in self._waiting:
                waiter.cancel()
            self._waiting, self._alone, self._called, self._left, self.together = [], 0, 0, 0, 0

    def _next(self, limit: int) -> list[tuple[Item, Waiter]]:
        """The next group."""
        waiting = self._waiting
        if not self.together:
            group, self._waiting = waiting[:limit], waiting[limit:]
            self._called = len(group)
            return group
        group, at, room, alone = [], 0, limit, 0
        while room and at < len(waiting):
            item, waiter = waiting[at]
            size = waiter.size if type(waiter) is _Part else 1
            if size > room:
                first, rest = item.split(room)  # type: ignore[attr-defined]
                group.append((first, _Part(waiter.whole, room)))
                waiting[at] = rest, _Part(waiter.whole, size - room)
                room = 0
                break
            group.append((item, waiter))
            alone += type(waiter) is not _Part
            room -= size
            at += 1
        self._waiting = waiting[at:]
        self._called = alone
        self.together -= limit - room - alone
        return group


def _tell(group: Sequence[tuple[Any, Waiter]], answers: Sequence[Any]) -> None:
    """Each its own; whoever cannot bear it keeps nobody else from being told."""
    for (_, waiter), answer in zip(group, answers, strict=True):
        if waiter.done():
            continue
        try:
            if isinstance(answer, Exception):
                waiter.set_exception(answer)
            else:
                waiter.set_result(answer)
        except Exception:
            log.exception("waiter_failed")
