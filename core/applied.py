"""A committed batch and what Redis is to be told of it, by partition: every entry dealt with, beside the job it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.decide import Decision
from core.entries import Entry
from core.mailbox import Publication, Taken
from core.model import (
    GROUP,
    JOB_FORMAT,
    QUARANTINED,
    REPLAY,
    Command,
    Job,
    JobReservation,
    Reservation,
    Session,
    Verdict,
)
from core.numbering import Incident, Numbered


@dataclass(slots=True)
class Share:
    """What of a batch is one partition's. `strays`: commands whose session is not there, or no more."""

    partition: int
    taken: Taken
    entries: list[Entry]
    strays: list[Entry] = field(default_factory=list)
    sessions: set[int] = field(default_factory=set)

    def part(self, sessions: Mapping[int, Session]) -> None:
        """Tell the strays from the others, once it is known which sessions there are."""
        self.strays = [e for e in self.entries if e.command.session_id not in sessions]
        if self.strays:
            self.entries = [e for e in self.entries if e.command.session_id in sessions]
        self.sessions = {e.command.session_id for e in self.entries}

    @property
    def is_whole(self) -> bool:
        """Whether all that was taken is dealt with, and nobody had died over it."""
        return not self.taken.suspect and self.count == len(self.taken.entries) + len(self.taken.unreadable)

    @property
    def count(self) -> int:
        """Entries that are dealt with."""
        return len(self.entries) + len(self.taken.unreadable) + len(self.strays)


@dataclass(frozen=True, slots=True)
class Applied:
    """A committed batch, as its publications need it."""

    applied_at: int
    shares: list[Share]
    sessions: dict[int, Session]
    known: dict[str, Job]
    numbered: Numbered
    decision: Decision
    earlier: list[Job]

    @property
    def count(self) -> int:
        return sum(share.count for share in self.shares)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return self.decision.verdicts

    @property
    def incidents(self) -> list[Incident]:
        return self.numbered.incidents

    def jobs(self) -> dict[str, Job]:
        """All that the batch's entries stand for."""
        jobs = dict(self.known)
        held = {r.id: r for r in (*self.decision.inserted, *self.decision.updated)}
        for verdict in self.verdicts:
            if verdict.command.kind != REPLAY:
                jobs[verdict.command.job_id] = _job(verdict, held, self.applied_at)
        for job in self.earlier:
            if job.id in jobs:
                jobs[job.id] = job
        return jobs

    def publications(self, paces: Mapping[int, float], keep_bell: bool = False) -> dict[int, Publication]:
        """What Redis is told, by partition: every entry dealt with, beside the job it stands for."""
        jobs, sessions = self.jobs(), {**self.sessions, **self.decision.sessions}
        return {s.partition: self._publication(s, jobs, sessions, paces[s.partition], keep_bell) for s in self.shares}

    def _publication(
        self, share: Share, jobs: dict[str, Job], sessions: dict[int, Session], pace: float, keep_bell: bool
    ) -> Publication:
        taken = share.taken
        rows: list[tuple[str, Job | None]] = [(u.stream_id, None) for u in taken.unreadable]
        rows += [(e.stream_id, jobs.get(e.command.job_id) or _failed(e.command, self.applied_at)) for e in share.strays]
        rows += [(e.stream_id, jobs[e.command.job_id]) for e in share.entries]
        earlier = [job for job in self.earlier if job.session_id in share.sessions]
        over = not taken.suspect or (not taken.entries and not taken.near) or rows[-1][0] == taken.suspect
        gone = frozenset(e.command.session_id for e in share.strays)
        doubt = any(incident.is_gap and incident.session_id in share.sessions for incident in self.incidents)
        return Publication(rows, sessions, self.numbered.lifts, earlier, taken.mark if over else "", pace, gone, doubt, keep_bell)


def _job(verdict: Verdict, held: dict[int, Reservation], applied_at: int) -> Job:
    c = verdict.command
    r = held.get(verdict.reservation_id) if verdict.reservation_id is not None else None
    return Job(
        JOB_FORMAT,
        c.job_id,
        c.kind,
        c.session_id,
        c.client,
        c.body_hash,
        c.seq,
        c.accepted_at,
        verdict.outcome,
        applied_at,
        c.accepted_seq is not None,
        None if r is None else _shown(r),
        tuple([_shown(held[effect.reservation_id]) for effect in verdict.effects]) if c.kind == GROUP else (),
    )


def _shown(r: Reservation) -> JobReservation:
    return JobReservation(r.id, r.session_id, r.status, r.seats)


def _failed(c: Command, applied_at: int) -> Job:
    """The job of a command that was set aside for want of its session: it was accepted, so it has an outcome."""
    fields = (c.job_id, c.kind, c.session_id, c.client, c.body_hash, c.seq, c.accepted_at)
    return Job(JOB_FORMAT, *fields, QUARANTINED, applied_at)
