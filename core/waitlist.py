"""The waitlist while a batch is decided: who goes next when places come free. Pure.

A batch loads a `Window` of it, never all: of each party size as many entries as the places that can come free in the batch
could hold, and one more for each cancel, because the entries loaded may be the ones cancelled. That is always enough; should
it ever not be, `Queue` says so instead of letting somebody pass.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from core.errors import DecisionInterrupted
from core.model import FILL, MOVES_MAX, SEATS_MAX, WAITLISTED, Reservation


@dataclass(frozen=True, slots=True)
class Window:
    """The entries of a session's waitlist that a batch may reach, by rank.

    `ends`: for each party size of which there are more than were loaded, the rank of the last one loaded.
    """

    rows: tuple[Reservation, ...] = ()
    ends: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WaitlistNeed:
    """How far a batch may reach into a waitlist: `places` that may come free in all, `leaving` entries that may go."""

    session_id: int
    places: int
    leaving: int

    def limit(self, seats: int) -> int:
        """How many entries of this size are loaded, at most."""
        return min(self.places // seats, MOVES_MAX) + self.leaving + 1

    def window(self, rows: Iterable[Reservation]) -> Window:
        """What was loaded, and where it ends."""
        found = window_of(rows).rows
        by_size: dict[int, list[Reservation]] = {}
        for row in found:
            by_size.setdefault(row.seats, []).append(row)
        ends = {seats: _rank(rows[-1]) for seats, rows in by_size.items() if len(rows) >= self.limit(seats)}
        return Window(found, ends)


def window_of(rows: Iterable[Reservation]) -> Window:
    """A window that holds the whole waitlist among `rows`."""
    waiting = [row for row in rows if row.status == WAITLISTED]
    waiting.sort(key=_rank)
    return Window(tuple(waiting))


class Queue:
    """One session's waitlist in motion. Entries that changed since they were queued are skipped when their turn comes."""

    __slots__ = ("_by_size", "_ends", "_now", "rows")

    def __init__(self, window: Window, now: Callable[[int], Reservation | None]) -> None:
        """`now(id)` is a reservation as this batch has changed or made it, or None."""
        self.rows = {row.id: row for row in window.rows}
        self._ends = window.ends
        self._now = now
        self._by_size: dict[int, list[tuple[int, int]]] = {}
        for row in window.rows:
            self._by_size.setdefault(row.seats, []).append((_rank(row), row.id))

    def add(self, row: Reservation) -> None:
        """Queue an entry of this batch: a new one, one put back, or one whose seats have changed."""
        heapq.heappush(self._by_size.setdefault(row.seats, []), (_rank(row), row.id))

    def first_rank(self, otherwise: int) -> int:
        """The smallest rank in the queue."""
        ranks = [head[0] for size in list(self._by_size) if (head := self._head(size)) is not None]
        return min(ranks, default=otherwise)

    def next(self, free: int, policy: str) -> Reservation | None:
        """Take out who goes next into `free` places, if anybody does."""
        heads = [(head, size) for size in self._sizes(free, policy) if (head := self._head(size)) is not None]
        if not heads:
            return None
        (_, row_id), size = min(heads)
        if size > free:
            return None
        heapq.heappop(self._by_size[size])
        return self._current(row_id)

    def _sizes(self, free: int, policy: str) -> Iterable[int]:
        if policy == FILL:
            return range(1, min(free, SEATS_MAX) + 1)
        return sorted({*self._by_size, *self._ends})

    def _head(self, size: int) -> tuple[int, int] | None:
        heap = self._by_size.get(size, [])
        while heap and not self._is_current(heap[0], size):
            heapq.heappop(heap)
        end = self._ends.get(size)
        if end is not None and (not heap or heap[0][0] > end):
            raise DecisionInterrupted("More of the waitlist is needed than was loaded.")
        return heap[0] if heap else None

    def _is_current(self, entry: tuple[int, int], size: int) -> bool:
        row = self._current(entry[1])
        return row is not None and row.status == WAITLISTED and row.seats == size and row.rank == entry[0]

    def _current(self, row_id: int) -> Reservation | None:
        return self._now(row_id) or self.rows.get(row_id)


def _rank(row: Reservation) -> int:
    assert row.rank is not None  # noqa: S101  who waits has one
    return row.rank
