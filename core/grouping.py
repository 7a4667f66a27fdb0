"""Group commit for calls: what arrives while a call is under way waits for it, then goes together in the next one.

With one caller a group holds one item and nothing waits; under load a round trip's cost is shared by many. Every group is
begun after each of its items arrived, so a read through it is never older than its request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Grouped(Generic[Item, Answer]):
    """Calls `call(items)` for groups of at most `limit` items; it answers as many results, in order.

    A result that is an exception is raised at its own item only; an exception of the call is raised at all of them.
    """

    def __init__(self, call: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], limit: int) -> None:
        self._call = call
        self._limit = limit
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                try:
                    answers = await self._call([item for item, _ in group])
                except Exception as exc:
                    answers = [exc] * len(group)
                for (_, future), answer in zip(group, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self._running = None
            for _, future in self._waiting:
                future.cancel()
            self._waiting = []
