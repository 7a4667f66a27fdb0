"""Whether Postgres still has what Redis says of it: looked up whenever Postgres was away, for it may have come back older.

A standby that took over without everything, or a backup that was restored, lacks commands whose outcomes were shown. That
cannot be undone here; it is noticed, written down, and no longer shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from core.claims import Claim
from core.incidents import say
from core.model import Session, partition_of_session
from core.numbering import Incident

PAGE = 500  # sessions in one step


class ClaimsPort(Protocol):
    """See core.claims.Claims."""

    def of(self, session_ids: Sequence[int]) -> list[Claim | None]: ...
    def doubt(self) -> None: ...
    def begin_era(self) -> None: ...
    def take_back(self, session: Session, claim: Claim) -> None: ...


class Recheck:
    """One pass over the sessions that may still be asked for, in steps, so that whoever makes it can do other things between."""

    def __init__(
        self,
        claims: ClaimsPort,
        page: Callable[[int, int], list[tuple[int, int]]],
        read: Callable[[int], Session | None],
        record: Callable[[Incident, int], None],
        partitions: int,
    ) -> None:
        """`page(after, limit)`: ids and versions of sessions, by id; `read(id)`: one of them, as it is now; `record(incident,
        partition)` writes an incident down."""
        self._claims = claims
        self._page = page
        self._read = read
        self._record = record
        self._partitions = partitions
        self._after: int | None = None
        self.found = 0

    def __call__(self) -> int:
        """A whole pass at once, when it is known that Postgres has gone back: what was shown before is the ledger's to tell,
        whatever the pass finds. How many sessions were ahead in Redis. Raises Unavailable."""
        self._claims.doubt()
        self.begin()
        while self.step():
            pass
        return self.found

    def begin(self) -> None:
        """Begin a pass, also in the middle of one."""
        self._after, self.found = 0, 0

    def step(self) -> bool:
        """Look at some more sessions. Whether there are more. Raises Unavailable; then the pass goes on where it was."""
        if self._after is None:
            return False
        page = self._page(self._after, PAGE)
        if self._after == 0:  # Postgres answers again; what readers kept of before may be of a state that is no more
            self._claims.begin_era()
        claims = self._claims.of([session_id for session_id, _ in page])
        for (session_id, version), claim in zip(page, claims, strict=True):
            if claim is not None and claim.version > version:
                self._look_closer(session_id, claim)
        self._after = page[-1][0] if len(page) == PAGE else None
        return self._after is not None

    def _look_closer(self, session_id: int, claim: Claim) -> None:
        """The row that the claim was compared with was read before it, and may have grown since."""
        session = self._read(session_id)
        if session is None or session.version >= claim.version:
            return
        partition = partition_of_session(session_id, self._partitions)
        detail: dict[str, int | str] = {"redis_seq": claim.last_seq, "postgres_seq": session.last_seq}
        incident = Incident("postgres_went_back", session_id, detail)
        say(incident, partition)
        self._record(incident, partition)
        if not self.found:
            self._claims.doubt()
        self.found += 1
        self._claims.take_back(session, claim)
