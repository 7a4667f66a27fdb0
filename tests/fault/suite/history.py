"""What clients and readers saw, in their own words and by one clock: every call with when it was sent and answered.

A call without an answer is a "maybe": its command was applied once, or not at all, and the checker accepts either.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ACCEPTED = "accepted"  # the answer names a job
REFUSED = "refused"  # the answer says that nothing was accepted
MAYBE = "maybe"  # no answer, or one that leaves it open


@dataclass(frozen=True, slots=True)
class Wish:
    """One command that a client wants applied once, however often it sends it. `seats` None: all of them (cancel)."""

    number: int
    session: int
    kind: str
    key: str | None
    email: str
    seats: int | None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class JobShown:
    """A job as an answer showed it."""

    id: str
    session: int
    seq: int
    accepted_at: str
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """One sending of a wish. `returned`: when its answer was there, or when the client gave up; `status` None: no answer."""

    wish: Wish
    invoked: float
    returned: float
    status: int | None
    job: JobShown | None = None
    code: str | None = None
    retry_after: str | None = None

    @property
    def fate(self) -> str:
        """ACCEPTED, REFUSED or MAYBE."""
        if self.job is not None:
            return ACCEPTED
        # A 5xx may come after the command was written down; only that of a full queue says that it was not.
        if self.status is None or (self.status >= 500 and self.code != "queue_full"):
            return MAYBE
        return REFUSED


@dataclass(frozen=True, slots=True)
class SessionSeen:
    """A session as a reader saw it."""

    session: int
    invoked: float
    returned: float
    version: int
    last_seq: int
    reserved: int
    capacity: int


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A job as a reader saw it."""

    job: JobShown
    invoked: float
    returned: float


@dataclass(slots=True)
class History:
    """All of it, in the order in which it was written down."""

    calls: list[Call] = field(default_factory=list)
    sessions: list[SessionSeen] = field(default_factory=list)
    jobs: list[JobSeen] = field(default_factory=list)

    def note(self, call: Call) -> None:
        """Write a call down; an outcome in its answer was seen like any other."""
        self.calls.append(call)
        if call.job is not None and call.job.outcome is not None:
            self.jobs.append(JobSeen(call.job, call.invoked, call.returned))

    def latencies(self) -> list[float]:
        """Seconds that each accepted call took."""
        return [call.returned - call.invoked for call in self.calls if call.fate == ACCEPTED]
