"""`Repartition` changes the number of partitions while everything runs: shuts the door, drains, switches, and opens it again.

Every step may be the last before a crash: the row in Postgres says how far it came, and running it again goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from core.arrangement import Arrangement
from core.crashpoints import reach
from core.errors import AforoError, SettingsConflict, Unavailable
from core.shutter import SHUT

EMPTY_SECONDS = 60.0
LOOK_SECONDS = 0.02
SESSIONS_AT_A_TIME = 2000
STILL_SHUT = "The door is shut: run this again to go on, or with --abort to open it as before."


class ArrangementsPort(Protocol):
    """See core.arrangement.Arrangements."""

    def read(self) -> Arrangement: ...
    def intend(self, partitions: int) -> None: ...
    def switch(self) -> None: ...
    def end(self) -> None: ...


class ShutterPort(Protocol):
    """See core.shutter.Shutter."""

    def mark(self, partitions: range, text: str) -> None: ...
    def drop_heads(self, session_ids: Sequence[int], lanes: int) -> None: ...
    def waiting(self) -> list[int]: ...
    def begin_anew(self, partitions: range) -> None: ...


class Repartition:
    """One change at a time: see Arrangements.alone."""

    def __init__(
        self,
        arrangements: ArrangementsPort,
        shutter: ShutterPort,
        drain: Callable[[int], int],
        session_ids: Callable[[int, int], list[int]],
    ) -> None:
        """`session_ids(after, limit)`: ids of all sessions there are, in their order."""
        self._arrangements = arrangements
        self._shutter = shutter
        self._drain = drain
        self._session_ids = session_ids

    def __call__(self, partitions: int) -> float:
        """From now on there are so many; also when there are so many already, which marks them anew. For how many seconds nothing
        was accepted. Raises SettingsConflict when another change is half done, Unavailable."""
        found = self._arrangements.read()
        if found.moving_to not in (None, partitions):
            raise SettingsConflict(
                f"A change from {found.partitions} to {found.moving_to} partitions is half done: run "
                f"`aforo repartition {found.moving_to}` to end it, or with --abort to open the door as it was."
            )
        started = time.monotonic()
        both = range(max(found.partitions, partitions))
        if not (found.is_moving and found.partitions == partitions):  # else it was switched, and only not opened
            self._arrangements.intend(partitions)
            reach("intended")
            self._empty(found.partitions, both)
            self._arrangements.switch()
            reach("switched")
        self._open(both)
        return time.monotonic() - started

    def abort(self) -> int:
        """Open the door again, as it was before a change that was not ended, or as it is to be if it was switched already. How
        many partitions there are."""
        found = self._arrangements.read()
        both = range(max(found.partitions, found.moving_to or 0))
        if found.moving_to == found.partitions:
            self._open(both)
        elif found.is_moving:
            self._shutter.mark(both, str(found.lanes))
            self._arrangements.end()
        return found.partitions

    def _empty(self, lanes: int, both: range) -> None:
        """Shut the door, have all applied that waits, and take out all heads. If that fails, open it again."""
        try:
            self._shutter.mark(both, SHUT)
            reach("shut")
            self._until_empty()
            reach("emptied")
            after = 0
            while page := self._session_ids(after, SESSIONS_AT_A_TIME):
                self._shutter.drop_heads(page, lanes)
                after = page[-1]
        except BaseException as exc:
            try:
                self.abort()
            except AforoError:
                raise Unavailable(STILL_SHUT) from exc
            raise
        reach("without_heads")

    def _until_empty(self) -> None:
        """Until every command is applied and published, by whichever worker."""
        until = time.monotonic() + EMPTY_SECONDS
        while waiting := self._shutter.waiting():
            if time.monotonic() > until:
                raise Unavailable(f"Partition {waiting[0]} does not empty: see what its workers log. Nothing was changed.")
            if not sum(map(self._drain, waiting)):
                time.sleep(LOOK_SECONDS)  # somebody else has them

    def _open(self, both: range) -> None:
        self._shutter.begin_anew(both)
        reach("opening")
        self._shutter.mark(both, str(self._arrangements.read().lanes))
        reach("opened")
        self._arrangements.end()
