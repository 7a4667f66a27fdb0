"""The place of every mailbox entry after what the ledger already knows: redeliveries, replays, renumbering, gaps. Pure.

`core/decide.py` applies the commands in the order that `number` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from core.model import REPLAY, Command, Frozen, Job, Reservation, Session, replay_id


class Known(Frozen):
    """What the ledger says of a job it already holds."""

    job_id: str
    session_id: int
    seq: int
    accepted_seq: int | None
    accepted_at: int

    def is_of(self, entry: Command) -> bool:
        """Whether it was applied from this entry, which has come again; and not the job accepted anew, be it under its number."""
        return entry.accepted_at == self.accepted_at and entry.seq in (self.seq, self.accepted_seq)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a batch's commands meet in Postgres: jobs that the ledger has already, their sessions, locked, and the live
    reservations of the people they name, by session and e-mail key; and a fresh position for each."""

    known: dict[str, tuple[Job, Known]]
    sessions: dict[int, Session]
    live: dict[tuple[int, str], Reservation]
    positions: list[int]


NOTHING_LOADED = Loaded({}, {}, {}, [])


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that only lost data can cause; recorded, counted and shown, never hidden."""

    kind: str  # seq_gap | renumbered | redis_emptied | redis_went_back | postgres_went_back
    session_id: int | None
    detail: dict[str, int | str]

    @property
    def is_gap(self) -> bool:
        """Whether numbers are missing."""
        return self.kind == "seq_gap"


@dataclass(frozen=True, slots=True)
class Lift:
    """By how much Redis's numbering of a session lags behind, as the entry that was accepted under `seq` shows."""

    by: int
    seq: int


@dataclass(slots=True)
class Numbered:
    """The entries of a batch after comparison with the ledger."""

    commands: list[Command] = field(default_factory=list)  # to be decided, under their final seq
    redelivered: list[str] = field(default_factory=list)  # job ids to publish again, not to apply again
    incidents: list[Incident] = field(default_factory=list)
    lifts: dict[int, Lift] = field(default_factory=dict)  # by session id


def number(
    entries: Iterable[Command],
    known: Mapping[str, Known],
    known_replays: Mapping[str, Known],
    last_seqs: Mapping[int, int],
) -> Numbered:
    """Place each entry after its session's last seq.

    A known job under its own seq is a redelivery; under another it becomes a `replay`, which only holds the place. An
    unknown job whose seq has passed is renumbered; one that jumps ahead leaves a gap. Nothing new is ever skipped.
    """
    result = Numbered()
    seqs = dict(last_seqs)
    first = dict(known)
    for entry in entries:
        seen = first.get(entry.job_id)
        if seen is not None:
            repeated = replay_id(entry)
            applied = seen if seen.is_of(entry) else known_replays.get(repeated)
            if applied is not None:
                result.redelivered.append(entry.job_id)
                if applied.accepted_seq is not None:  # whoever renumbered it may have died before Redis was told
                    result.lifts[entry.session_id] = Lift(applied.seq - entry.seq, entry.seq)
                continue
            entry = msgspec.structs.replace(
                entry, job_id=repeated, kind=REPLAY, arguments=None, body_hash="", replay_of=seen.job_id, quarantined=False
            )
        command = _place(entry, seqs[entry.session_id], result)
        seqs[entry.session_id] = command.seq
        if seen is None:
            first[command.job_id] = known_from(command)
        else:
            result.redelivered.append(seen.job_id)
        result.commands.append(command)
    return result


def known_from(command: Command) -> Known:
    """What the ledger will say of a command."""
    return Known(command.job_id, command.session_id, command.seq, command.accepted_seq, command.accepted_at)


def _place(entry: Command, last: int, result: Numbered) -> Command:
    if entry.seq == last + 1:
        return entry
    if entry.seq > last + 1:
        detail: dict[str, int | str] = {"first": last + 1, "last": entry.seq - 1}
        result.incidents.append(Incident("seq_gap", entry.session_id, detail))
        return entry
    detail = {"job": entry.job_id, "accepted_seq": entry.seq, "seq": last + 1}
    result.incidents.append(Incident("renumbered", entry.session_id, detail))
    result.lifts[entry.session_id] = Lift(last + 1 - entry.seq, entry.seq)
    return msgspec.structs.replace(entry, seq=last + 1, accepted_seq=entry.seq)
