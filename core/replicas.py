"""Replicas that must have a command on disk before its 202: asked for in the commands' own round trip.

WAITAOF answers for what was written over its own connection only, so each group writes a key of its own first: then it speaks
of everything before, also of a command that another process took in and this one merely knows. A replica that is asked tells what
it had on disk before it was asked, so it is asked twice, first whether it has received it (WAIT); else it would take a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ASKED_KEY = "aforo:asked"
RECEIVED_MS = 500
ON_DISK_MS = 1000
PROBE_MS = 50


class Replicas:
    """So many of them must confirm each group; with none nothing is asked."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.are_there = True  # as far as the last question showed

    def question(self) -> list[tuple[Any, ...]]:
        """The commands that ask, to be sent behind a group's calls."""
        return self._question(RECEIVED_MS, ON_DISK_MS)

    async def probe(self, client: Any) -> bool:
        """Whether they are back: asked before anything is taken in that they could not confirm."""
        return self.confirm(await client.exchange(self._question(PROBE_MS, PROBE_MS)))

    def confirm(self, answers: Sequence[Any]) -> bool:
        """What the last three answers say."""
        written, _, on_disk = answers[-3:]
        self.are_there = not isinstance(written, Exception) and not isinstance(on_disk, Exception) and on_disk[1] >= self.wanted
        return self.are_there

    def _question(self, received_ms: int, on_disk_ms: int) -> list[tuple[Any, ...]]:
        return [
            ("SET", ASKED_KEY, "1"),
            ("WAIT", self.wanted, received_ms),
            ("WAITAOF", 1, self.wanted, on_disk_ms),
        ]
