"""Ids that were looked up and not found: remembered for a moment, so that who tries ids does not reach Postgres each time.

What is unknown may come to be. A job is looked up in Redis first, which has every job from its acceptance on, so only its absence
from the ledger is remembered. Of a session the absence counts only as long as none was created since, by whichever process: each
creation changes a word in Redis before it is answered, and what is remembered carries the word from before it was looked up.
"""

from __future__ import annotations

import time
from typing import Any, Final, Generic, TypeVar

REMEMBERED_SECONDS: Final = 2.0
REMEMBERED_MAX: Final = 10_000
Id = TypeVar("Id")


class Unknown(Generic[Id]):
    """Ids that were not found within the last `seconds`, `most` at a time, the newest."""

    def __init__(self, seconds: float = REMEMBERED_SECONDS, most: int = REMEMBERED_MAX) -> None:
        self._seconds = seconds
        self._most = most
        self._ids: dict[Id, tuple[float, Any]] = {}  # in the order of their time

    def add(self, name: Id, word: Any = True) -> None:
        """It was not found just now; `word`: what to answer when it is asked for."""
        self._ids.pop(name, None)
        if len(self._ids) >= self._most:
            del self._ids[next(iter(self._ids))]
        self._ids[name] = (time.monotonic() + self._seconds, word)

    def get(self, name: Id) -> Any:
        """The word with which it was added, as long as that is not too long ago; else None."""
        found = self._ids.get(name)
        if found is None:
            return None
        if time.monotonic() < found[0]:
            return found[1]
        del self._ids[name]
        return None

    def discard(self, name: Id) -> None:
        """It is there now."""
        self._ids.pop(name, None)

    def __len__(self) -> int:
        return len(self._ids)


class UnknownSessions:
    """Sessions that were not found, and that all beyond some id were not."""

    def __init__(self, seconds: float = REMEMBERED_SECONDS, most: int = REMEMBERED_MAX) -> None:
        self._single: Unknown[int] = Unknown(seconds, most)
        self._seconds = seconds
        self._beyond: tuple[int, float, bytes] | None = None

    def add(self, session_id: int, highest: int, word: bytes) -> None:
        """It was not found, nor any above `highest`; `word` was read before."""
        if session_id <= highest:
            self._single.add(session_id, word)
        self._beyond = (highest, time.monotonic() + self._seconds, word)

    def word_of(self, session_id: int) -> bytes | None:
        """The word from before this session was not found; None if that is not known of it."""
        beyond = self._beyond
        if beyond is not None and session_id > beyond[0] and time.monotonic() < beyond[1]:
            return beyond[2]
        return self._single.get(session_id)
