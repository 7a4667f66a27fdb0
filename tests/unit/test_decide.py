"""The decision as a table of scenarios: who comes, in which order, and what they are told."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest

from core.decide import State, decide
from core.errors import DecisionInterrupted
from core.model import Command, Reservation, Session
from core.replay import complete, evolve
from core.waitlist import Window
from tests.support.deciding import NOW, amend, cancel, configure, group, held, replay, reserve, state, turn


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


ANA = held("ana")
WAITS = held("bo", status="waitlisted", rank=1)
FRESH = reserve("cy", 1)


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
    Scenario(
        "nobody is checked in where nothing takes place", full(**CANCELLED), [ANA], [amend("ana", 1, ANA.id, checked_in=True)],
        ["session_cancelled"], 1,
    ),
    Scenario("another one's reservation", full(), [ANA], [amend("ana", 1, 7, checked_in=True)], ["not_found"], 1),
    Scenario(
        "not found before not confirmed", full(waiting=1), [WAITS], [amend("bo", 1, 7, checked_in=True)], ["not_found"], 1
    ),
    Scenario("who waits", full(waiting=1), [WAITS], [amend("bo", 1, WAITS.id, checked_in=True)], ["not_confirmed"], 1),
    Scenario(
        "at the entrance of a session that is closed and has started", full(**CLOSED, start_time=NOW - 5), [ANA],
        [amend("ana", 1, ANA.id, checked_in=True, name="Anna")], ["amended"], 1,
    ),
    Scenario(
        "whoever came in the same batch", Session(1, capacity=1), [], [FRESH, amend("cy", 2, FRESH.position, checked_in=True)],
        ["confirmed", "amended"], 1,
    ),
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
    # Windows: by the moment of acceptance, in their precedence.
    Scenario(
        "closed by time before not open",
        Session(1, 1, opens_at=NOW + 99, closes_at=NOW - 1),
        [],
        [reserve("ana", 1)],
        ["closed"],
        0,
    ),
    Scenario(
        "not open before started", Session(1, 1, opens_at=NOW + 99, start_time=NOW), [], [reserve("ana", 1)], ["not_open"], 0
    ),
    Scenario("started before duplicate", full(start_time=NOW), [held("ana")], [reserve("ana", 1)], ["started"], 1),
    Scenario("a started session gives nothing back", full(start_time=NOW), [held("ana")], [cancel("ana", 1)], ["started"], 1),
    Scenario("one not open gives back", full(opens_at=NOW + 99), [held("ana")], [cancel("ana", 1)], ["cancelled"], 0),
    Scenario(
        "open from its moment on",
        Session(1, 9, opens_at=NOW + 2),
        [],
        [reserve("a", 1), reserve("b", 2)],
        ["not_open", "confirmed"],
        1,
    ),
    Scenario(
        "closed from its moment on",
        Session(1, 9, closes_at=NOW + 2),
        [],
        [reserve("a", 1), reserve("b", 2)],
        ["confirmed", "closed"],
        1,
    ),
    # Seats.
    Scenario(
        "duplicate before too many seats",
        full(max_seats_per_reservation=1),
        [held("ana")],
        [reserve("ana", 1, seats=2)],
        ["duplicate"],
        1,
    ),
    Scenario(
        "too many seats before sold out",
        full(max_seats_per_reservation=1),
        [held("ana")],
        [reserve("bo", 1, seats=2)],
        ["too_many_seats"],
        1,
    ),
    Scenario(
        "some seats back",
        Session(1, 3, 3),
        [held("ana", seats=3)],
        [cancel("ana", 1, seats=2), reserve("bo", 2, seats=2)],
        ["reduced", "confirmed"],
        3,
    ),
    Scenario(
        "more back than are held", Session(1, 3, 2), [held("ana", seats=2)], [cancel("ana", 1, seats=3)], ["too_many_seats"], 2
    ),
    Scenario(
        "all seats back is a cancel", Session(1, 3, 2), [held("ana", seats=2)], [cancel("ana", 1, seats=2)], ["cancelled"], 0
    ),
    Scenario(
        "another reservation of the same person", full(), [held("ana")], [cancel("ana", 1, reservation_id=7)], ["not_found"], 1
    ),
    # The waitlist.
    Scenario(
        "who waits goes first, and nobody overtakes",
        full(waitlist_capacity=2),
        [held("ana")],
        [reserve("bo", 1), reserve("cy", 2), reserve("dee", 3), cancel("ana", 4), reserve("eve", 5), cancel("bo", 6)],
        ["waitlisted", "waitlisted", "sold_out", "cancelled", "waitlisted", "cancelled"],
        1,
    ),
    Scenario(
        "in a strict house a small party does not pass a large one",
        Session(1, 3, 3, waitlist_capacity=9),
        [held("ana", seats=3)],
        [reserve("bo", 1, seats=3), reserve("cy", 2), cancel("ana", 3, seats=1), reserve("dee", 4), cancel("bo", 5)],
        ["waitlisted", "waitlisted", "reduced", "waitlisted", "cancelled"],
        3,
    ),
    Scenario(
        "in a filling house it does",
        Session(1, 3, 3, waitlist_capacity=9, waitlist_policy="fill"),
        [held("ana", seats=3)],
        [reserve("bo", 1, seats=3), reserve("cy", 2), cancel("ana", 3, seats=2), reserve("dee", 4)],
        ["waitlisted", "waitlisted", "reduced", "confirmed"],
        3,
    ),
    Scenario(
        "who waits with fewer seats than before may fit",
        Session(1, 3, 3, waitlist_capacity=9),
        [held("ana", seats=3)],
        [reserve("bo", 1, seats=2), reserve("cy", 2), cancel("ana", 3, seats=1), cancel("bo", 4, seats=1)],
        ["waitlisted", "waitlisted", "reduced", "reduced"],
        3,
    ),
    Scenario(
        "a party larger than the house does not wait",
        Session(1, 2, waitlist_capacity=9),
        [],
        [reserve("ana", 1, seats=3)],
        ["sold_out"],
        0,
    ),
    # Groups.
    Scenario(
        "all or none",
        Session(1, 3),
        [],
        [group(1, [("a", 2), ("b", 2)]), group(2, [("a", 2), ("b", 1)])],
        ["sold_out", "confirmed"],
        3,
    ),
    Scenario("the same person twice", Session(1, 9), [], [group(1, [("a", 1), ("a", 1)])], ["duplicate"], 0),
    Scenario(
        "a group does not overtake either", Session(1, 5, 3, 1, waitlist_capacity=9), [], [group(1, [("a", 1)])], ["sold_out"], 3
    ),
    # Settings.
    Scenario("below what is taken", Session(1, 3, 3), [held("ana", seats=3)], [configure(1, capacity=2)], ["below_reserved"], 3),
    Scenario(
        "below before bad times",
        Session(1, 3, 3),
        [held("ana", seats=3)],
        [configure(1, capacity=2, start_time=5, end_time=4)],
        ["below_reserved"],
        3,
    ),
    Scenario("bad times", Session(1, 3, start_time=NOW + 9), [], [configure(1, end_time=NOW + 9)], ["bad_times"], 0),
    Scenario(
        "too many moves",
        Session(1, 60_000, 60_000),
        [],
        [configure(1, capacity=0, on_shrink="waitlist")],
        ["too_many_moves"],
        60_000,
    ),
    Scenario(
        "nothing is changed of what is refused",
        Session(1, 3, 3),
        [held("a", seats=3)],
        [configure(1, capacity=2, waitlist_capacity=9), reserve("b", 2)],
        ["below_reserved", "sold_out"],
        3,
    ),
    Scenario(
        "a setting",
        Session(1, 3),
        [],
        [configure(1, max_seats_per_reservation=1), reserve("a", 2, seats=2)],
        ["configured", "too_many_seats"],
        0,
    ),
    # Turns.
    Scenario(
        "closed, reopened",
        Session(1, 3),
        [],
        [turn("close", 1), reserve("a", 2), turn("reopen", 3), reserve("a", 4)],
        ["session_closed", "closed", "session_reopened", "confirmed"],
        1,
    ),
    Scenario(
        "cancelled for good",
        full(waitlist_capacity=9),
        [held("a")],
        [
            reserve("b", 1),
            turn("cancel_session", 2),
            reserve("c", 3),
            cancel("a", 4),
            turn("reopen", 5),
            configure(6, capacity=9),
            turn("cancel_session", 7),
        ],
        ["waitlisted", "cancelled"] + ["session_cancelled"] * 5,
        0,
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])
def test_scenario(scenario: Scenario) -> None:
    before = state(scenario.session, live=scenario.live)
    kept = copy.deepcopy(before)
    decision = decide(complete(before, scenario.commands), scenario.commands)
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


def promoted_in(decision: Any) -> list[tuple[str, int, int]]:
    return [tuple(vars_of(effect)) for verdict in decision.verdicts for effect in verdict.effects]


def test_one_command_may_have_many_effects_and_names_them_all() -> None:
    ana = held("ana", seats=2)
    commands = [reserve("bo", 1), reserve("cy", 2), cancel("ana", 3)]
    before = state(Session(1, capacity=2, reserved=2, waitlist_capacity=9), live=[ana])
    decision = decide(complete(before, commands), commands)
    bo, cy = (command.position for command in commands[:2])
    effects = [tuple(vars_of(effect)) for effect in decision.verdicts[2].effects]
    assert effects == [("cancelled", ana.id, 2), ("promoted", bo, 1), ("promoted", cy, 1)]
    assert [(row.status, row.rank) for row in decision.inserted] == [("confirmed", None)] * 2


def test_those_who_are_sent_back_keep_their_order_before_all_who_waited() -> None:
    commands = [reserve(name, seq) for seq, name in enumerate("abcd", 1)]
    commands += [configure(5, capacity=1, on_shrink="waitlist")]
    before = state(Session(1, capacity=3, waitlist_capacity=9))
    decision = decide(complete(before, commands), commands)
    rows = sorted((row for row in decision.inserted if row.status == "waitlisted"), key=lambda row: row.rank)
    assert [row.name for row in rows] == ["B", "C", "D"]
    assert [effect.kind for effect in decision.verdicts[4].effects] == ["demoted", "demoted"]
    assert decision.configured == (decision.sessions[1],)


def test_cancelling_a_session_touches_no_reservation() -> None:
    before = state(Session(1, capacity=1000, reserved=999), live=[held(f"guest{n}") for n in range(999)])
    decision = decide(before, [turn("cancel_session", 1)])
    assert (decision.inserted, decision.updated) == ((), ())
    assert promoted_in(decision) == [("all_cancelled", 0, 999)]
    after = decision.sessions[1]
    assert (after.reserved, after.waiting, after.state) == (0, 0, "cancelled")


def test_a_window_that_is_too_small_is_noticed_and_nobody_passes() -> None:
    waiting = held("bo", status="waitlisted", rank=5)
    before = state(Session(1, capacity=2, reserved=2, waiting=3, waitlist_capacity=9), live=[held("ana", seats=2)])
    before.waitlists = {1: Window((waiting,), {1: 5})}  # there are more, which were not loaded
    with pytest.raises(DecisionInterrupted):
        decide(before, [cancel("ana", 1)])


def test_a_cancel_reaches_only_what_the_same_client_reserved_unless_it_may_reach_all() -> None:
    before = state(Session(1, 5, reserved=1), live=[held("ana", client="shop")])
    tries = [cancel("ana", 1, client="other"), cancel("ana", 1, client="shop"), cancel("ana", 1, client="other", any_client=True)]
    assert [decide(before, [one]).verdicts[0].outcome for one in tries] == ["not_found", "cancelled", "cancelled"]


def test_checking_in_twice_keeps_the_first_moment_and_has_no_second_effect() -> None:
    first, second = amend("ana", 1, ANA.id, checked_in=True), amend("ana", 2, ANA.id, checked_in=True)
    decision = decide(state(full(), live=[ANA]), [first, second])
    assert [row.checked_in_at for row in decision.updated] == [first.accepted_at]
    assert [[effect.kind for effect in verdict.effects] for verdict in decision.verdicts] == [["checked_in"], []]


def test_a_name_that_is_the_same_is_an_effect_all_the_same() -> None:
    """Else a ledger whose names were forgotten would replay otherwise."""
    verdict = decide(state(full(), live=[ANA]), [amend("ana", 1, ANA.id, name=ANA.name)]).verdicts[0]
    assert [effect.kind for effect in verdict.effects] == ["renamed"]


def test_whoever_loses_their_place_to_the_waitlist_is_not_inside_any_more() -> None:
    commands = [amend("ana", 1, ANA.id, checked_in=True), configure(2, capacity=0, on_shrink="waitlist")]
    before = state(full(), live=[ANA])
    for command in commands:
        decision = decide(complete(before, [command]), [command])
        evolve(before, decision)
    (row,) = decision.updated
    assert (row.status, row.checked_in_at) == ("waitlisted", None)
