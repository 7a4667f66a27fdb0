"""The decision: what an ordered batch of commands does to the sessions it concerns. Pure: no I/O, no clock, no chance.

The drain runs `decide` on what it loaded from Postgres, `verify` runs it again on the ledger, and both must agree.
Whatever frees places promotes the waitlist in the same step, so that no later command can overtake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from core.errors import DecisionInterrupted
from core.model import (
    ALL_CANCELLED,
    AMEND,
    AMENDED,
    BAD_TIMES,
    BELOW_RESERVED,
    CANCEL,
    CANCEL_SESSION,
    CANCELLED,
    CHECKED_IN,
    CHECKED_OUT,
    CLOSE,
    CLOSED,
    CONFIGURE,
    CONFIGURED,
    CONFIRMED,
    DEMOTE,
    DEMOTED,
    DUPLICATE,
    FILL,
    GROUP,
    MOVES_MAX,
    NOT_CONFIRMED,
    NOT_FOUND,
    NOT_OPEN,
    PROMOTED,
    QUARANTINED,
    REDUCED,
    REFUSE,
    RENAMED,
    REOPEN,
    REPLAY,
    REPLAYED,
    RESERVE,
    RESIZED,
    SESSION_CANCELLED,
    SOLD_OUT,
    STARTED,
    TOO_MANY_MOVES,
    TOO_MANY_SEATS,
    UNSET,
    WAITLISTED,
    WAS_CLOSED,
    WAS_REOPENED,
    AmendArguments,
    CancelArguments,
    Command,
    ConfigureArguments,
    Effect,
    Reservation,
    ReserveArguments,
    Session,
    Verdict,
)
from core.waitlist import Queue, Window, window_of

PersonKey = tuple[int, str]  # session id, e-mail key

SETTINGS = (
    "capacity",
    "waitlist_capacity",
    "waitlist_policy",
    "max_seats_per_reservation",
    "opens_at",
    "closes_at",
    "start_time",
    "end_time",
)


@dataclass(slots=True)
class State:
    """What a batch is decided on: its sessions, the live reservations of the people it names, and of sessions where
    places may come free or be taken away, the start of the waitlist and the newest confirmed reservations."""

    sessions: dict[int, Session]
    live: dict[PersonKey, Reservation]
    waitlists: Mapping[int, Window] = field(default_factory=dict)
    newest: Mapping[int, Sequence[Reservation]] = field(default_factory=dict)  # the newest first


@dataclass(frozen=True, slots=True)
class Decision:
    """What a batch did: a verdict per command, in order, and the end state of every row it touched."""

    verdicts: tuple[Verdict, ...]
    sessions: dict[int, Session]
    inserted: tuple[Reservation, ...]
    updated: tuple[Reservation, ...]
    configured: tuple[Session, ...] = ()  # those whose settings changed, not only their counters


def decide(state: State, commands: Sequence[Command]) -> Decision:
    """Apply `commands` in order to `state`, which is left as it was.

    Every command's session must be in `state.sessions`, and the live reservation of every person named, if there is one,
    in `state.live`; see core/waitlist.py for what of the waitlists. Refusals are verdicts; the first that applies of
    `model.REFUSALS` is the outcome.
    """
    work = _Work(state)
    verdicts = tuple([work.apply(command) for command in commands])
    return work.decision(verdicts)


def may_demote(command: Command) -> bool:
    """Whether the command may send confirmed reservations to the waitlist."""
    asked = command.arguments
    return isinstance(asked, ConfigureArguments) and asked.on_shrink == DEMOTE and asked.capacity is not UNSET


def newest_confirmed(rows: Iterable[Reservation]) -> list[Reservation]:
    """Those that hold places, the newest first: the order in which a shrinking session gives them up."""
    return sorted((row for row in rows if row.status == CONFIRMED), key=lambda row: (-row.seq, -row.id))


class _Counters:
    """A session's changing numbers and settings while a batch is decided."""

    __slots__ = ("last_seq", "queue", "reserved", "session", "waiting")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.reserved = session.reserved
        self.waiting = session.waiting
        self.last_seq = session.last_seq
        self.queue: Queue | None = None  # the waitlist in motion, once it is needed

    @property
    def free(self) -> int:
        return self.session.capacity - self.reserved

    def frozen(self) -> Session:
        return msgspec.structs.replace(
            self.session,
            reserved=self.reserved,
            waiting=self.waiting,
            last_seq=self.last_seq,
            version=self.session.version + 1,
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
        """Decide one command."""
        counters = self._sessions.get(command.session_id)
        if counters is None:
            counters = _Counters(self._before.sessions[command.session_id])
            self._sessions[command.session_id] = counters
        counters.last_seq = command.seq
        if command.quarantined:
            return Verdict(command, QUARANTINED)
        return _RULES[command.kind](self, counters, command)

    def decision(self, verdicts: tuple[Verdict, ...]) -> Decision:
        """What came of it all."""
        sessions = {session_id: counters.frozen() for session_id, counters in self._sessions.items()}
        changed = [i for i, counters in self._sessions.items() if counters.session is not self._before.sessions[i]]
        configured = tuple([sessions[i] for i in sorted(changed)])
        return Decision(verdicts, sessions, tuple(self._inserted.values()), tuple(self._updated.values()), configured)

    # -- the rules ------------------------------------------------------------------------------------------------------

    def reserve(self, counters: _Counters, command: Command) -> Verdict:
        """One person: a place, else the waitlist, else a refusal."""
        person: ReserveArguments = command.arguments  # type: ignore[assignment]
        session = counters.session
        refusal = _shut(session, command.accepted_at)
        if refusal is None and self._live_of(command.session_id, person.email_key) is not None:
            refusal = DUPLICATE
        if refusal is None and person.seats > session.max_seats_per_reservation:
            refusal = TOO_MANY_SEATS
        if refusal is not None:
            return Verdict(command, refusal)
        if person.seats <= counters.free and (counters.waiting == 0 or session.waitlist_policy == FILL):
            counters.reserved += person.seats
            return self._admitted(command, person, CONFIRMED)
        if counters.waiting < session.waitlist_capacity and person.seats <= session.capacity:
            counters.waiting += 1
            verdict = self._admitted(command, person, WAITLISTED)
            self._queue_up(counters, self._inserted[command.position])
            return verdict
        return Verdict(command, SOLD_OUT)

    def group(self, counters: _Counters, command: Command) -> Verdict:
        """Several people: all get places at once, or none does."""
        people = command.arguments.people  # type: ignore[union-attr]
        session = counters.session
        refusal = _shut(session, command.accepted_at)
        if refusal is None:
            refusal = self._group_refusal(counters, command, people)
        if refusal is not None:
            return Verdict(command, refusal)
        effects = []
        for offset, person in enumerate(people):
            counters.reserved += person.seats
            effects.append(self._insert(command, command.position + offset, person, CONFIRMED))
        return Verdict(command, CONFIRMED, tuple(effects))

    def _group_refusal(self, counters: _Counters, command: Command, people: tuple[ReserveArguments, ...]) -> str | None:
        session = counters.session
        keys = [person.email_key for person in people]
        if len(set(keys)) < len(keys) or any(self._live_of(command.session_id, key) is not None for key in keys):
            return DUPLICATE
        if any(person.seats > session.max_seats_per_reservation for person in people):
            return TOO_MANY_SEATS
        fits = sum(person.seats for person in people) <= counters.free
        if not fits or (counters.waiting and session.waitlist_policy != FILL):
            return SOLD_OUT
        return None

    def cancel(self, counters: _Counters, command: Command) -> Verdict:
        """Give back a reservation, or some of its seats; whoever waits moves up."""
        asked: CancelArguments = command.arguments  # type: ignore[assignment]
        session = counters.session
        if session.cancelled_at is not None:
            return Verdict(command, SESSION_CANCELLED)
        if _has_started(session, command.accepted_at):
            return Verdict(command, STARTED)
        held = self._live_of(command.session_id, asked.email_key)
        if held is None or asked.reservation_id not in (None, held.id) or not (asked.any_client or held.client == command.client):
            return Verdict(command, NOT_FOUND)
        seats = held.seats if asked.seats is None else asked.seats
        if seats > held.seats:
            return Verdict(command, TOO_MANY_SEATS)
        leaves = seats == held.seats
        effect = self._leave(counters, held, command.accepted_at) if leaves else self._reduce(counters, held, seats)
        return Verdict(command, effect.kind, (effect, *self._promote(counters)), held.id)

    def amend(self, counters: _Counters, command: Command) -> Verdict:
        """Correct a name, check somebody in, or take that back. What is so already stays so, from when it was."""
        asked: AmendArguments = command.arguments  # type: ignore[assignment]
        if counters.session.cancelled_at is not None:
            return Verdict(command, SESSION_CANCELLED)
        held = self._live_of(command.session_id, asked.email_key)
        if held is None or held.id != asked.reservation_id:
            return Verdict(command, NOT_FOUND)
        if asked.checked_in is True and held.status != CONFIRMED:
            return Verdict(command, NOT_CONFIRMED)
        effects: list[Effect] = []
        if asked.name is not UNSET:  # an effect also where it is the same: a replay may not know the name any more
            held = msgspec.structs.replace(held, name=asked.name)
            effects.append(Effect(RENAMED, held.id, 0))
        if asked.checked_in is not UNSET and asked.checked_in is (held.checked_in_at is None):
            held = msgspec.structs.replace(held, checked_in_at=command.accepted_at if asked.checked_in else None)
            effects.append(Effect(CHECKED_IN if asked.checked_in else CHECKED_OUT, held.id, 0))
        self._replace(held)
        return Verdict(command, AMENDED, tuple(effects), held.id)

    def configure(self, counters: _Counters, command: Command) -> Verdict:
        """Change settings, all that are named or none. More places promote; fewer may demote, if that is asked for."""
        asked: ConfigureArguments = command.arguments  # type: ignore[assignment]
        if counters.session.cancelled_at is not None:
            return Verdict(command, SESSION_CANCELLED)
        changes = {name: value for name in SETTINGS if (value := getattr(asked, name)) is not UNSET}
        session = msgspec.structs.replace(counters.session, **changes)
        refusal = _unfit(counters, session, asked.on_shrink)
        if refusal is not None:
            return Verdict(command, refusal)
        resized = session.capacity != counters.session.capacity
        resized = resized or session.waitlist_capacity != counters.session.waitlist_capacity
        counters.session = session
        effects = (*self._demote(counters), *self._promote(counters))
        return Verdict(command, RESIZED if resized else CONFIGURED, effects)

    def close(self, counters: _Counters, command: Command) -> Verdict:
        """Take no more reservations. A session that is closed stays so."""
        if counters.session.cancelled_at is not None:
            return Verdict(command, SESSION_CANCELLED)
        if counters.session.closed_at is None:
            counters.session = msgspec.structs.replace(counters.session, closed_at=command.accepted_at)
        return Verdict(command, WAS_CLOSED)

    def reopen(self, counters: _Counters, command: Command) -> Verdict:
        """Take reservations again."""
        if counters.session.cancelled_at is not None:
            return Verdict(command, SESSION_CANCELLED)
        counters.session = msgspec.structs.replace(counters.session, closed_at=None)
        return Verdict(command, WAS_REOPENED)

    def cancel_session(self, counters: _Counters, command: Command) -> Verdict:
        """Cancel everything at a constant cost: from here on the rows of its reservations count as cancelled."""
        if counters.session.cancelled_at is not None:
            return Verdict(command, SESSION_CANCELLED)
        effect = Effect(ALL_CANCELLED, 0, counters.reserved)
        counters.session = msgspec.structs.replace(counters.session, cancelled_at=command.accepted_at)
        counters.reserved = counters.waiting = 0
        return Verdict(command, CANCELLED, (effect,))

    def replay(self, _counters: _Counters, command: Command) -> Verdict:
        """Only hold the place."""
        return Verdict(command, REPLAYED)

    # -- what the rules are made of --------------------------------------------------------------------------------------

    def _admitted(self, command: Command, person: ReserveArguments, status: str) -> Verdict:
        effect = self._insert(command, command.position, person, status)
        return Verdict(command, status, (effect,), command.position)

    def _insert(self, command: Command, reservation_id: int, person: ReserveArguments, status: str) -> Effect:
        reservation = Reservation(
            id=reservation_id,
            session_id=command.session_id,
            name=person.name,
            email=person.email,
            email_key=person.email_key,
            seats=person.seats,
            status=status,
            seq=command.seq,
            client=command.client,
            created_at=command.accepted_at,
            rank=reservation_id if status == WAITLISTED else None,
        )
        self._inserted[reservation_id] = reservation
        self._live[command.session_id, person.email_key] = reservation
        return Effect(status, reservation_id, person.seats)

    def _leave(self, counters: _Counters, held: Reservation, cancelled_at: int) -> Effect:
        if held.status == CONFIRMED:
            counters.reserved -= held.seats
        else:
            counters.waiting -= 1
        self._put(msgspec.structs.replace(held, status=CANCELLED, cancelled_at=cancelled_at, rank=None))
        self._live[held.session_id, held.email_key] = None
        return Effect(CANCELLED, held.id, held.seats)

    def _reduce(self, counters: _Counters, held: Reservation, seats: int) -> Effect:
        reduced = msgspec.structs.replace(held, seats=held.seats - seats)
        self._replace(reduced)
        if held.status == CONFIRMED:
            counters.reserved -= seats
        else:
            self._queue_up(counters, reduced)
        return Effect(REDUCED, held.id, seats)

    def _promote(self, counters: _Counters) -> list[Effect]:
        """Let in who waits, as far as places are free, in the session's manner."""
        effects: list[Effect] = []
        while counters.waiting and counters.free > 0:
            row = self._queue_of(counters).next(counters.free, counters.session.waitlist_policy)
            if row is None:
                break
            counters.waiting -= 1
            counters.reserved += row.seats
            self._replace(msgspec.structs.replace(row, status=CONFIRMED, rank=None))
            effects.append(Effect(PROMOTED, row.id, row.seats))
        return effects

    def _demote(self, counters: _Counters) -> list[Effect]:
        """Send the newest confirmed to the head of the waitlist, in their order, until the rest fits."""
        if counters.free >= 0:
            return []
        leaving: list[Reservation] = []
        for row in self._newest(counters.session.id):
            if counters.free >= 0:
                break
            counters.reserved -= row.seats
            leaving.append(row)
        if counters.free < 0:
            raise DecisionInterrupted("More of the newest reservations are needed than were loaded.")
        leaving.reverse()
        queue = self._queue_of(counters)
        first = queue.first_rank(otherwise=0) - len(leaving)
        for offset, row in enumerate(leaving):
            demoted = msgspec.structs.replace(row, status=WAITLISTED, rank=first + offset, checked_in_at=None)
            self._replace(demoted)
            queue.add(demoted)
        counters.waiting += len(leaving)
        return [Effect(DEMOTED, row.id, row.seats) for row in leaving]

    def _newest(self, session_id: int) -> list[Reservation]:
        """Confirmed reservations as they stand now, the newest first."""
        rows = {row.id: row for row in self._before.newest.get(session_id, ())}
        rows |= {row.id: row for row in self._updated.values() if row.session_id == session_id}
        rows |= {row.id: row for row in self._inserted.values() if row.session_id == session_id}
        return newest_confirmed(rows.values())

    def _queue_of(self, counters: _Counters) -> Queue:
        if counters.queue is None:
            counters.queue = Queue(self._window(counters.session.id), self._now)
        return counters.queue

    def _window(self, session_id: int) -> Window:
        """What was loaded of the waitlist, as this batch has changed it so far."""
        window = self._before.waitlists.get(session_id, Window())
        rows = {row.id: row for row in window.rows}
        for changed in (self._updated, self._inserted):
            rows |= {row.id: row for row in changed.values() if row.session_id == session_id}
        return Window(window_of(rows.values()).rows, window.ends)

    def _queue_up(self, counters: _Counters, row: Reservation) -> None:
        """Tell the queue, if it is in motion; else it finds the row when it is set up."""
        if counters.queue is not None:
            counters.queue.add(row)

    def _now(self, reservation_id: int) -> Reservation | None:
        return self._inserted.get(reservation_id) or self._updated.get(reservation_id)

    def _live_of(self, session_id: int, email_key: str) -> Reservation | None:
        key = (session_id, email_key)
        if key in self._live:
            return self._live[key]
        return self._before.live.get(key)

    def _replace(self, reservation: Reservation) -> None:
        self._put(reservation)
        self._live[reservation.session_id, reservation.email_key] = reservation

    def _put(self, reservation: Reservation) -> None:
        rows = self._inserted if reservation.id in self._inserted else self._updated
        rows[reservation.id] = reservation


_RULES = {
    RESERVE: _Work.reserve,
    CANCEL: _Work.cancel,
    GROUP: _Work.group,
    AMEND: _Work.amend,
    CONFIGURE: _Work.configure,
    CLOSE: _Work.close,
    REOPEN: _Work.reopen,
    CANCEL_SESSION: _Work.cancel_session,
    REPLAY: _Work.replay,
}
FREEING = frozenset({CANCEL, CONFIGURE})  # commands after which somebody may be promoted


def _shut(session: Session, at: int) -> str | None:
    """Why nobody may reserve at this moment, if so."""
    if session.cancelled_at is not None:
        return SESSION_CANCELLED
    if session.closed_at is not None or (session.closes_at is not None and at >= session.closes_at):
        return CLOSED
    if session.opens_at is not None and at < session.opens_at:
        return NOT_OPEN
    return STARTED if _has_started(session, at) else None


def _has_started(session: Session, at: int) -> bool:
    return session.start_time is not None and at >= session.start_time


def _unfit(counters: _Counters, session: Session, on_shrink: str) -> str | None:
    """Why these settings cannot be taken on, if so."""
    fewer_waiting = session.waitlist_capacity < min(counters.waiting, counters.session.waitlist_capacity)
    if on_shrink == REFUSE and (session.capacity < counters.reserved or fewer_waiting):
        return BELOW_RESERVED
    if not _in_order(session.start_time, session.end_time) or not _in_order(session.opens_at, session.closes_at):
        return BAD_TIMES
    moves = max(counters.reserved - session.capacity, min(counters.waiting, session.capacity - counters.reserved))
    return TOO_MANY_MOVES if moves > MOVES_MAX else None


def _in_order(first: int | None, last: int | None) -> bool:
    return first is None or last is None or first < last
