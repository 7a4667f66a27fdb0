"""The decision: what an ordered batch of commands does to the sessions it concerns. Pure: no I/O, no clock, no chance.

`number` gives every mailbox entry its place after what the ledger already knows; `decide` applies commands in that order.
The drain runs both on what it loaded from Postgres, `verify` runs `decide` again on the ledger, and both must agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from core.model import (
    CANCEL,
    CANCELLED,
    CLOSED,
    CONFIRMED,
    DUPLICATE,
    NOT_FOUND,
    QUARANTINED,
    REPLAY,
    REPLAYED,
    RESERVE,
    SESSION_CANCELLED,
    SOLD_OUT,
    Command,
    Effect,
    Reservation,
    Session,
    Verdict,
    replay_id,
)

PersonKey = tuple[int, str]  # session id, e-mail key


@dataclass(slots=True)
class State:
    """What a batch is decided on: its sessions, and the live reservations of the people it names."""

    sessions: dict[int, Session]
    live: dict[PersonKey, Reservation]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a batch did: a verdict per command, in order, and the end state of every row it touched."""

    verdicts: tuple[Verdict, ...]
    sessions: dict[int, Session]
    inserted: tuple[Reservation, ...]
    updated: tuple[Reservation, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger says of a job it already holds."""

    job_id: str
    session_id: int
    seq: int
    accepted_seq: int | None


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that only lost data can cause; recorded, counted and shown, never hidden."""

    kind: str  # seq_gap | renumbered | redis_emptied
    session_id: int
    detail: dict[str, int | str]


@dataclass(slots=True)
class Numbered:
    """The entries of a batch after comparison with the ledger."""

    commands: list[Command] = field(default_factory=list)  # to be decided, under their final seq
    redelivered: list[str] = field(default_factory=list)  # job ids to publish again, not to apply again
    incidents: list[Incident] = field(default_factory=list)
    lifts: dict[int, int] = field(default_factory=dict)  # session id: by how much Redis's numbering lags behind


def number(
    entries: Iterable[Command],
    known: Mapping[str, Known],
    known_replays: frozenset[str] | set[str],
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
            repeated = replay_id(entry.job_id, entry.session_id, entry.seq)
            if entry.seq in (seen.seq, seen.accepted_seq) or repeated in known_replays:
                result.redelivered.append(entry.job_id)
                continue
            entry = msgspec.structs.replace(
                entry, job_id=repeated, kind=REPLAY, arguments=None, replay_of=seen.job_id, quarantined=False
            )
        command = _place(entry, seqs[entry.session_id], result)
        seqs[entry.session_id] = command.seq
        if seen is None:
            first[command.job_id] = Known(command.job_id, command.session_id, command.seq, command.accepted_seq)
        else:
            result.redelivered.append(seen.job_id)
        result.commands.append(command)
    return result


def _place(entry: Command, last: int, result: Numbered) -> Command:
    if entry.seq == last + 1:
        return entry
    if entry.seq > last + 1:
        detail: dict[str, int | str] = {"first": last + 1, "last": entry.seq - 1}
        result.incidents.append(Incident("seq_gap", entry.session_id, detail))
        return entry
    detail = {"job": entry.job_id, "accepted_seq": entry.seq, "seq": last + 1}
    result.incidents.append(Incident("renumbered", entry.session_id, detail))
    result.lifts[entry.session_id] = last + 1 - entry.seq
    return msgspec.structs.replace(entry, seq=last + 1, accepted_seq=entry.seq)


def decide(state: State, commands: Sequence[Command]) -> Decision:
    """Apply `commands` in order to `state`, which is left as it was.

    Every command's session must be in `state.sessions`, and the live reservation of every person named, if there is one,
    in `state.live`. Refusals are verdicts; the first that applies of `model.REFUSALS` is the outcome.
    """
    work = _Work(state)
    verdicts = tuple([work.apply(command) for command in commands])
    return work.decision(verdicts)


def evolve(state: State, decision: Decision) -> None:
    """Bring `state` up to the decision, in place: the replay's way to the next commands."""
    state.sessions.update(decision.sessions)
    for reservation in (*decision.updated, *decision.inserted):
        key = (reservation.session_id, reservation.email_key)
        if reservation.status == CANCELLED:
            held = state.live.get(key)
            if held is not None and held.id == reservation.id:
                del state.live[key]
        else:
            state.live[key] = reservation


class _Counters:
    """A session's changing numbers while a batch is decided."""

    __slots__ = ("last_seq", "reserved", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.reserved = session.reserved
        self.last_seq = session.last_seq

    def frozen(self) -> Session:
        return msgspec.structs.replace(
            self.session, reserved=self.reserved, last_seq=self.last_seq, version=self.session.version + 1
        )


class _Work:
    """The working copy of one batch. Leaves `state` untouched; remembers which rows are new and which are changed."""

    __slots__ = ("_before", "_inserted", "_live", "_sessions", "_updated")

    def __init__(self, state: State) -> None:
        self._before = state
        self._sessions: dict[int, _Counters] = {}
        self._live: dict[PersonKey, Reservation | None] = {}
        self._inserted: dict[int, Reservation] = {}
        self._updated: dict[int, Reservation] = {}

    def apply(self, command: Command) -> Verdict:
        counters = self._sessions.get(command.session_id)
        if counters is None:
            counters = _Counters(self._before.sessions[command.session_id])
            self._sessions[command.session_id] = counters
        counters.last_seq = command.seq
        if command.quarantined:
            return Verdict(command, QUARANTINED)
        return _RULES[command.kind](self, counters, command)

    def reserve(self, counters: _Counters, command: Command) -> Verdict:
        person = command.arguments
        session = counters.session
        if session.cancelled_at is not None:
            return Verdict(command, SESSION_CANCELLED)
        if session.closed_at is not None:
            return Verdict(command, CLOSED)
        if self._live_of(command.session_id, person.email_key) is not None:
            return Verdict(command, DUPLICATE)
        if counters.reserved + person.seats > session.capacity:
            return Verdict(command, SOLD_OUT)
        counters.reserved += person.seats
        reservation = Reservation(
            id=command.position,
            session_id=command.session_id,
            name=person.name,
            email=person.email,
            email_key=person.email_key,
            seats=person.seats,
            status=CONFIRMED,
            seq=command.seq,
            client=command.client,
            created_at=command.accepted_at,
        )
        self._inserted[reservation.id] = reservation
        self._live[command.session_id, person.email_key] = reservation
        return Verdict(command, CONFIRMED, (Effect(CONFIRMED, reservation.id, person.seats),), reservation.id)

    def cancel(self, counters: _Counters, command: Command) -> Verdict:
        if counters.session.cancelled_at is not None:
            return Verdict(command, SESSION_CANCELLED)
        held = self._live_of(command.session_id, command.arguments.email_key)
        if held is None:
            return Verdict(command, NOT_FOUND)
        counters.reserved -= held.seats
        self._put(msgspec.structs.replace(held, status=CANCELLED, cancelled_at=command.accepted_at))
        self._live[command.session_id, held.email_key] = None
        return Verdict(command, CANCELLED, (Effect(CANCELLED, held.id, held.seats),), held.id)

    def replay(self, counters: _Counters, command: Command) -> Verdict:
        return Verdict(command, REPLAYED)

    def _live_of(self, session_id: int, email_key: str) -> Reservation | None:
        key = (session_id, email_key)
        if key in self._live:
            return self._live[key]
        return self._before.live.get(key)

    def _put(self, reservation: Reservation) -> None:
        rows = self._inserted if reservation.id in self._inserted else self._updated
        rows[reservation.id] = reservation

    def decision(self, verdicts: tuple[Verdict, ...]) -> Decision:
        sessions = {session_id: counters.frozen() for session_id, counters in self._sessions.items()}
        return Decision(verdicts, sessions, tuple(self._inserted.values()), tuple(self._updated.values()))


_RULES = {RESERVE: _Work.reserve, CANCEL: _Work.cancel, REPLAY: _Work.replay}
