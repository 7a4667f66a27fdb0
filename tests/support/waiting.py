"""Waiting for a condition, with a bound; never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
POLL_SECONDS = 0.01


def until(condition: Callable[[], Result], seconds: float = 15.0, what: str = "") -> Result:
    """The condition's first true answer. Raises AssertionError when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}; last answer: {answer!r}"
        time.sleep(POLL_SECONDS)


async def until_in_loop(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """The same in an event loop, whose other tasks go on meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(POLL_SECONDS)
