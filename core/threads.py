"""The threads in which an event loop calls Postgres, since psycopg2 blocks: some that read, and others for what commits, whose
commit may wait for a standby and is to keep nobody from reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from core.errors import Unavailable

READING: Final = 4  # threads, and as many connections to Postgres, for each API process
WRITING: Final = 2  # and as many more
WRITE_SECONDS = 10.0
Result = TypeVar("Result")


class Threads:
    """As many as there are connections, so that nobody waits for one in vain."""

    def __init__(self) -> None:
        self._reading = ThreadPoolExecutor(READING, thread_name_prefix="postgres")
        self._writing = ThreadPoolExecutor(WRITING, thread_name_prefix="postgres-writes")

    async def read(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a blocking call that reads."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call, *arguments)

    async def write(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """The same for one that commits. Raises as `in_time` does."""
        return await self.in_time(asyncio.get_running_loop().run_in_executor(self._writing, call, *arguments))

    async def in_time(self, under_way: Awaitable[Result]) -> Result:
        """Wait for something that commits. That may wait for a standby for as long as it is away: then this raises Unavailable,
        and what was to be written may yet come."""
        try:
            return await asyncio.wait_for(under_way, WRITE_SECONDS)
        except TimeoutError as exc:
            raise Unavailable("Postgres did not confirm this in time; it may yet come.") from exc

    def close(self) -> None:
        """Begin nothing any more."""
        for executor in (self._reading, self._writing):
            executor.shutdown(wait=False, cancel_futures=True)
