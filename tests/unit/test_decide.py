"""The decision as a table of scenarios: who comes, in which order, and what they are told."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest

from core.decide import State, decide
from core.model import Command, Reservation, Session
from tests.support.deciding import NOW, cancel, held, replay, reserve, state


class Scenario(NamedTuple):
    """Given a session and who is in it, when these commands come, then these are the outcomes and so many are in."""

    name: str
    session: Session
    live: list[Reservation]
    commands: list[Command]
    outcomes: list[str]
    reserved: int


CANCELLED = {"cancelled_at": NOW - 10}
CLOSED = {"closed_at": NOW - 10}


def full(**fields: Any) -> Session:
    return Session(1, capacity=1, reserved=1, **fields)


# Refusals in descending precedence: each row would also meet the refusals of the rows below it.
SCENARIOS = [
    Scenario("cancelled before all", full(**CANCELLED, **CLOSED), [held("ana")], [reserve("ana", 1)], ["session_cancelled"], 1),
    Scenario(
        "nothing to cancel in a cancelled one", full(**CANCELLED), [held("ana")], [cancel("ana", 1)], ["session_cancelled"], 1
    ),
    Scenario("closed before duplicate", full(**CLOSED), [held("ana")], [reserve("ana", 1)], ["closed"], 1),
    Scenario("closed before sold out", full(**CLOSED), [held("ana")], [reserve("bo", 1)], ["closed"], 1),
    Scenario("duplicate before sold out", full(), [held("ana")], [reserve("ana", 1)], ["duplicate"], 1),
    Scenario("sold out", full(), [held("ana")], [reserve("bo", 1)], ["sold_out"], 1),
    Scenario("not found", full(), [held("ana")], [cancel("bo", 1)], ["not_found"], 1),
    Scenario("a closed session gives back", full(**CLOSED), [held("ana")], [cancel("ana", 1)], ["cancelled"], 0),
    # Successes, and what they do to those behind.
    Scenario("a place", Session(1, capacity=1), [], [reserve("ana", 1)], ["confirmed"], 1),
    Scenario("no place at all", Session(1, capacity=0), [], [reserve("ana", 1)], ["sold_out"], 0),
    Scenario(
        "the last place goes to the first",
        Session(1, capacity=1),
        [],
        [reserve("ana", 1), reserve("bo", 2)],
        ["confirmed", "sold_out"],
        1,
    ),
    Scenario(
        "a cancelled place is free for the next person",
        full(),
        [held("ana")],
        [reserve("bo", 1), cancel("ana", 2), reserve("cy", 3), reserve("bo", 4)],
        ["sold_out", "cancelled", "confirmed", "sold_out"],
        1,
    ),
    Scenario(
        "who cancels may return",
        Session(1, capacity=2),
        [],
        [reserve("ana", 1), cancel("ana", 2), reserve("ana", 3), reserve("ana", 4)],
        ["confirmed", "cancelled", "confirmed", "duplicate"],
        1,
    ),
    Scenario("cancelling twice", full(), [held("ana")], [cancel("ana", 1), cancel("ana", 2)], ["cancelled", "not_found"], 0),
    Scenario("a party that fits", Session(1, capacity=5, reserved=2), [], [reserve("ana", 1, seats=3)], ["confirmed"], 5),
    Scenario(
        "a party that does not fit leaves the place to a smaller one",
        Session(1, capacity=3),
        [],
        [reserve("ana", 1, seats=4), reserve("bo", 2, seats=3)],
        ["sold_out", "confirmed"],
        3,
    ),
    Scenario(
        "a party gives all its seats back",
        Session(1, capacity=5, reserved=4),
        [held("ana", seats=4)],
        [cancel("ana", 1), reserve("bo", 2, seats=5)],
        ["cancelled", "confirmed"],
        5,
    ),
    Scenario("a replay only holds its place", full(), [held("ana")], [replay(1), cancel("ana", 2)], ["replayed", "cancelled"], 0),
    Scenario(
        "a quarantined command only holds its place",
        full(),
        [held("ana")],
        [cancel("ana", 1, quarantined=True), cancel("ana", 2)],
        ["quarantined", "cancelled"],
        0,
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])
def test_scenario(scenario: Scenario) -> None:
    before = state(scenario.session, live=scenario.live)
    kept = copy.deepcopy(before)
    decision = decide(before, scenario.commands)
    after = decision.sessions[1]
    assert [verdict.outcome for verdict in decision.verdicts] == scenario.outcomes
    assert after.reserved == scenario.reserved
    assert (after.last_seq, after.version) == (scenario.commands[-1].seq, scenario.session.version + 1)
    assert 0 <= after.reserved <= after.capacity
    assert before == kept, "the state it was given is left as it was"


def test_a_confirmed_reserve_makes_a_reservation_and_says_so() -> None:
    asked = reserve("ana", 7, seats=2)
    decision = decide(state(Session(1, capacity=2, last_seq=6)), [asked])
    (made,) = decision.inserted
    (verdict,) = decision.verdicts
    assert (made.id, made.seq, made.seats, made.status) == (asked.position, 7, 2, "confirmed")
    assert (made.created_at, made.client, made.email_key) == (asked.accepted_at, "open", "ana@example.org")
    assert (verdict.reservation_id, [tuple(vars_of(e)) for e in verdict.effects]) == (made.id, [("confirmed", made.id, 2)])
    assert decision.updated == ()


def test_a_cancel_changes_the_reservation_and_says_so() -> None:
    ana = held("ana", seats=3)
    asked = cancel("ana", 9)
    decision = decide(state(Session(1, capacity=3, reserved=3), live=[ana]), [asked])
    (gone,) = decision.updated
    (verdict,) = decision.verdicts
    assert (gone.id, gone.status, gone.cancelled_at, gone.seats) == (ana.id, "cancelled", asked.accepted_at, 3)
    assert [tuple(vars_of(e)) for e in verdict.effects] == [("cancelled", ana.id, 3)]
    assert verdict.reservation_id == ana.id


def test_what_is_made_and_cancelled_in_one_batch_is_written_once() -> None:
    decision = decide(state(Session(1, capacity=1)), [reserve("ana", 1), cancel("ana", 2)])
    assert [(row.status, row.seq) for row in decision.inserted] == [("cancelled", 1)]
    assert decision.updated == ()


def test_sessions_in_one_batch_do_not_touch_each_other() -> None:
    before = state(Session(1, capacity=1), Session(2, capacity=1), Session(3, capacity=1))
    decision = decide(before, [reserve("ana", 1, 1), reserve("ana", 1, 2), reserve("bo", 2, 1), cancel("ana", 2, 2)])
    assert [verdict.outcome for verdict in decision.verdicts] == ["confirmed", "confirmed", "sold_out", "cancelled"]
    assert {session.id: session.reserved for session in decision.sessions.values()} == {1: 1, 2: 0}


def test_an_empty_batch_does_nothing() -> None:
    decision = decide(State({}, {}), [])
    assert (decision.verdicts, decision.sessions, decision.inserted, decision.updated) == ((), {}, (), ())


def test_a_command_for_a_session_that_was_not_loaded_is_an_error_and_no_refusal() -> None:
    with pytest.raises(KeyError):
        decide(State({}, {}), [reserve("ana", 1)])


def vars_of(value: Any) -> list[Any]:
    return [getattr(value, name) for name in value.__struct_fields__]
