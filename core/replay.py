"""Replaying a ledger: a `State` that knows every live reservation, brought forward decision by decision. Pure.

`aforo verify` replays with it, and so do the tests; the drain never holds so much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.decide import FREEING, Decision, State, may_demote, newest_confirmed
from core.model import CANCELLED, Command, Reservation
from core.waitlist import window_of


def evolve(state: State, decision: Decision) -> None:
    """Bring `state`, which knows every live reservation, up to the decision, in place: the replay's way to the next
    commands."""
    for reservation in (*decision.updated, *decision.inserted):
        key = (reservation.session_id, reservation.email_key)
        if reservation.status == CANCELLED:
            held = state.live.get(key)
            if held is not None and held.id == reservation.id:
                del state.live[key]
        else:
            state.live[key] = reservation
    for session in decision.sessions.values():
        if session.cancelled_at is not None and state.sessions[session.id].cancelled_at is None:
            for key in [key for key in state.live if key[0] == session.id]:
                del state.live[key]
    state.sessions.update(decision.sessions)


def complete(state: State, commands: Sequence[Command]) -> State:
    """`state`, which knows every live reservation, with the waitlists and newest reservations these commands may need."""
    freeing = {command.session_id for command in commands if command.kind in FREEING}
    demoting = {command.session_id for command in commands if may_demote(command)}
    waiting = {session_id for session_id in freeing if state.sessions[session_id].waiting}
    waitlists = {session_id: window_of(_live_in(state, session_id)) for session_id in waiting}
    newest = {session_id: newest_confirmed(_live_in(state, session_id)) for session_id in demoting}
    return State(state.sessions, state.live, waitlists, newest)


def _live_in(state: State, session_id: int) -> Iterable[Reservation]:
    return (row for (session, _), row in state.live.items() if session == session_id)
