"""The sessions' heads in Redis: put there from Postgres where Redis does not have them, and asked whether there is a session.

What was looked for in vain is remembered for a moment, and look-ups of a moment share a statement.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from core.arrangement import Arrangement
from core.entries import Head
from core.errors import NotYetApplied, Rearranging, UnknownSession
from core.grouping import Grouped
from core.lanes import Lanes
from core.model import partition_of_session
from core.numbering import Incident
from core.projections import Projections, SessionNow
from core.queries import Queries, SessionView
from core.threads import Threads
from core.unknown import UnknownSessions

APPLIED_WAIT_SECONDS: Final = 5.0
APPLIED_LOOK_SECONDS: Final = 0.02
LOOK_UP_LIMIT: Final = 256  # sessions looked up in Postgres in one statement


class Heads:
    """Of all sessions, for one API process."""

    def __init__(
        self,
        projections: Projections,
        queries: Queries,
        threads: Threads,
        look: Callable[[], Awaitable[Arrangement]],
        record: Callable[[Incident, int], Awaitable[None]],
    ) -> None:
        """`look()`: how many partitions there are; `record(incident, partition)` says an incident everywhere."""
        self._projections = projections
        self._queries = queries
        self._threads = threads
        self._look = look
        self._record = record
        self._unknown = UnknownSessions()
        self.load: Grouped[int, bool] = Grouped(self._load_all, LOOK_UP_LIMIT)

    async def knows(self, session_id: int) -> bool:
        """Whether there is such a session: Redis knows it, or else Postgres does."""
        return await self._projections.head(session_id) is not None or await self.find(session_id)

    async def known(self, session_ids: Sequence[int]) -> set[int]:
        """Those of these sessions that there are, each named once: Redis knows them together, or else Postgres does."""
        if session_ids and await self._projections.are_known(session_ids):
            return set(session_ids)
        heads = await self._projections.head.all(session_ids)
        known = {session_id for session_id, head in zip(session_ids, heads, strict=True) if isinstance(head, Head)}
        missing = [session_id for session_id in session_ids if session_id not in known]
        found = await asyncio.gather(*map(self.find, missing))
        return known | {session_id for session_id, is_there in zip(missing, found, strict=True) if is_there}

    async def is_unknown(self, session_id: int) -> bool:
        """Whether this session was looked for a moment ago, in vain, and none has been created since."""
        word = self._unknown.word_of(session_id)
        return word is not None and word == await self._projections.creation()

    async def find(self, session_id: int) -> bool:
        """Put a session's head into Redis from Postgres. False if there is no such session."""
        return not await self.is_unknown(session_id) and await self.load(session_id)

    async def now(self, session_id: int) -> SessionNow | None:
        """A session's counters as they stand."""
        head = await self._projections.head(session_id)
        if head is None and await self.find(session_id):
            head = await self._projections.head(session_id)
        return None if head is None else SessionNow(session_id, head.version, head.now)

    async def applied(self, session_id: int, seq: int, wait: bool = True) -> None:
        """Wait until the session's command `seq` has been applied. Raises UnknownSession; NotYetApplied after a while, or at once
        if no such command has been accepted, or one may not `wait`."""
        until = time.monotonic() + (APPLIED_WAIT_SECONDS if wait else -1.0)
        while True:
            head = await self._projections.head(session_id)
            if head is None and not await self.find(session_id):
                raise UnknownSession
            if head is not None and head.now.last_seq >= seq:
                return
            if time.monotonic() > until or (head is not None and seq > head.queued_seq):  # nobody has sent it yet
                raise NotYetApplied
            await asyncio.sleep(APPLIED_LOOK_SECONDS)

    async def _load_all(self, session_ids: Sequence[int]) -> Sequence[bool | Exception]:
        """The heads of those that there are, together; of the others it is remembered that there are none."""
        arrangement = await self._look()  # before the sessions: what is read of them is not to be put under later lanes
        if arrangement.is_moving:
            raise Rearranging
        word = await self._projections.creation()
        found, highest = await self._threads.read(self._queries.known_sessions, sorted(set(session_ids)))
        for session_id in session_ids:
            if session_id not in found:
                self._unknown.add(session_id, highest, word)
        loaded = await asyncio.gather(*(self._load(view, arrangement.lanes) for view in found.values()), return_exceptions=True)
        answers = dict(zip(found, loaded, strict=True))
        return [answers.get(session_id, False) for session_id in session_ids]  # type: ignore[misc]

    async def _load(self, view: SessionView, lanes: Lanes) -> bool:
        session_id = view.id
        first_accepted_ms = await self._threads.read(self._queries.first_accepted_ms, session_id) if view.last_seq else 0
        never_seen = await self._projections.put_head(view.decided(), first_accepted_ms, lanes)
        if never_seen and view.last_seq > 0:
            incident = Incident("redis_emptied", session_id, {"last_seq": view.last_seq})
            await self._record(incident, partition_of_session(session_id, lanes))
        return True
