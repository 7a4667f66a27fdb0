"""Commands and states for tests of the decision, without a database."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from core.decide import State
from core.model import (
    AMEND,
    CANCEL,
    CONFIGURE,
    GROUP,
    REPLAY,
    RESERVE,
    AmendArguments,
    CancelArguments,
    Command,
    ConfigureArguments,
    GroupArguments,
    NoArguments,
    Reservation,
    ReserveArguments,
    Session,
    body_hash,
    new_job_id,
)

_positions = itertools.count(1000, 32)
NOW = 1_900_000_000_000


def command(kind: str, arguments: Any, seq: int, session: int = 1, **fields: Any) -> Command:
    """A command, accepted `seq` milliseconds after NOW."""
    given = {"client": "open", "body_hash": body_hash(arguments), "accepted_at": NOW + seq, "position": next(_positions)}
    return Command(new_job_id(session), session, seq, kind, arguments, **{**given, **fields})


def reserve(name: str, seq: int, session: int = 1, seats: int = 1, **fields: Any) -> Command:
    """Somebody reserves."""
    arguments = ReserveArguments(name.title(), f"{name}@example.org", f"{name}@example.org", seats)
    return command(RESERVE, arguments, seq, session, **fields)


def cancel(name: str, seq: int, session: int = 1, **fields: Any) -> Command:
    """Somebody cancels."""
    more = {key: fields.pop(key) for key in ("seats", "reservation_id", "any_client") if key in fields}
    return command(CANCEL, CancelArguments(f"{name}@example.org", f"{name}@example.org", **more), seq, session, **fields)


def amend(who: str, seq: int, reservation_id: int, session: int = 1, **changes: Any) -> Command:
    """A reservation's name is corrected, or its holder comes."""
    email = f"{who}@example.org"
    return command(AMEND, AmendArguments(email, email, reservation_id, **changes), seq, session)


def group(seq: int, people: Iterable[tuple[str, int]], session: int = 1, **fields: Any) -> Command:
    """People with so many seats each come together."""
    arguments = GroupArguments(tuple(ReserveArguments(n.title(), f"{n}@example.org", f"{n}@example.org", s) for n, s in people))
    return command(GROUP, arguments, seq, session, **fields)


def configure(seq: int, session: int = 1, accepted_at: int | None = None, **settings: Any) -> Command:
    """The owner changes settings."""
    return command(CONFIGURE, ConfigureArguments(**settings), seq, session, accepted_at=accepted_at or NOW + seq)


def turn(kind: str, seq: int, session: int = 1) -> Command:
    """Close, reopen or cancel the session."""
    return command(kind, NoArguments(), seq, session)


def replay(seq: int, session: int = 1) -> Command:
    """A repeat of something applied before."""
    return command(REPLAY, None, seq, session, replay_of=new_job_id(session))


def held(name: str, session: int = 1, seats: int = 1, **fields: Any) -> Reservation:
    """A confirmed reservation of before."""
    position = next(_positions)
    email = f"{name}@example.org"
    given = {"status": "confirmed", "seq": position, "client": "open", "created_at": NOW - 1}
    return Reservation(position, session, name.title(), email, email, seats, **{**given, **fields})


def state(*sessions: Session, live: Iterable[Reservation] = ()) -> State:
    """A state of these sessions and live reservations."""
    return State({session.id: session for session in sessions}, {(r.session_id, r.email_key): r for r in live})
