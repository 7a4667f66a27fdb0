"""How many lanes (partitions) there are now: one value for all parts of a process, and `aforo repartition` changes it under them.

It counts like the number it holds, so that nobody who hashes a session into a lane, or goes over all of them, has to ask anew.
"""

from __future__ import annotations

from typing import Any, Final

LANES_MAX: Final = 1024


class Lanes:
    """As many as `now` says, since the change with the number `epoch`."""

    __slots__ = ("epoch", "now")

    def __init__(self, now: int, epoch: int = 1) -> None:
        self.now = now
        self.epoch = epoch

    def __str__(self) -> str:
        """As Redis is marked with it (`aforo:{p}:lanes`): what was read before a change is of no use after it."""
        return f"{self.now}/{self.epoch}"

    def __index__(self) -> int:
        """For range() and int()."""
        return self.now

    def __rmod__(self, number: int) -> int:
        """A hash, modulo the number of lanes."""
        return number % self.now

    def __rmul__(self, row: list[Any]) -> list[Any]:
        """`[x] * lanes`, a table with a row for each lane, has room for all that there may ever be."""
        return row * LANES_MAX
