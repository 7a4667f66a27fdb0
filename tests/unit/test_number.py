"""Placing mailbox entries after what the ledger knows: redelivered, replayed, renumbered, after a gap."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from core.model import Command, replay_id
from core.numbering import Known, Lift, known_from, number
from tests.support.deciding import reserve


def known(*commands: Command) -> dict[str, Known]:
    return {c.job_id: known_from(c) for c in commands}


def test_the_usual_case_is_left_alone() -> None:
    commands = [reserve("ana", 4), reserve("bo", 5)]
    numbered = number(commands, {}, {}, {1: 3})
    assert (numbered.commands, numbered.redelivered, numbered.incidents, numbered.lifts) == (commands, [], [], {})


def test_a_known_job_under_its_own_seq_is_a_redelivery() -> None:
    ana = reserve("ana", 3)
    numbered = number([ana, reserve("bo", 4)], known(ana), {}, {1: 3})
    assert numbered.redelivered == [ana.job_id]
    assert [c.seq for c in numbered.commands] == [4]


def test_a_known_job_under_another_seq_is_a_replay_that_holds_the_place() -> None:
    ana = reserve("ana", 3)
    again = msgspec.structs.replace(ana, seq=8)
    (held,) = number([again], known(ana), {}, {1: 7}).commands
    assert (held.kind, held.seq, held.replay_of, held.arguments) == ("replay", 8, ana.job_id, None)
    assert held.job_id == replay_id(again) != ana.job_id


def test_a_replay_seen_again_is_a_redelivery() -> None:
    ana = reserve("ana", 3)
    again = msgspec.structs.replace(ana, seq=8)
    (held,) = number([again], known(ana), {}, {1: 7}).commands
    numbered = number([again], known(ana), known(held), {1: 8})
    assert (numbered.commands, numbered.redelivered) == ([], [ana.job_id])


def test_the_same_job_twice_in_one_batch_is_applied_once() -> None:
    ana = reserve("ana", 1)
    numbered = number([ana, msgspec.structs.replace(ana, seq=2)], {}, {}, {1: 0})
    assert [(c.kind, c.seq) for c in numbered.commands] == [("reserve", 1), ("replay", 2)]
    assert numbered.redelivered == [ana.job_id]


def test_an_unknown_job_under_a_seq_that_has_passed_is_renumbered() -> None:
    numbered = number([reserve("ana", 2), reserve("bo", 3)], {}, {}, {1: 5})
    assert [(c.seq, c.accepted_seq) for c in numbered.commands] == [(6, 2), (7, 3)]
    assert [incident.kind for incident in numbered.incidents] == ["renumbered", "renumbered"]
    assert numbered.lifts == {1: Lift(by=4, seq=3)}


def test_a_renumbered_job_seen_again_is_a_redelivery() -> None:
    ana = reserve("ana", 2)
    seen = known(msgspec.structs.replace(ana, seq=6, accepted_seq=2))
    numbered = number([ana], seen, {}, {1: 6})
    assert (numbered.commands, numbered.redelivered) == ([], [ana.job_id])
    assert numbered.lifts == {1: Lift(by=4, seq=2)}


def test_a_known_job_accepted_anew_under_the_number_it_had_is_a_replay() -> None:
    ana = reserve("ana", 3)
    again = msgspec.structs.replace(ana, accepted_at=ana.accepted_at + 1)
    (held,) = number([again], known(ana), {}, {1: 5}).commands
    assert (held.kind, held.seq, held.accepted_seq, held.replay_of) == ("replay", 6, 3, ana.job_id)


def test_a_renumbered_replay_seen_again_tells_by_how_much_numbering_lags() -> None:
    ana = reserve("ana", 3)
    again = msgspec.structs.replace(ana, seq=4, accepted_at=ana.accepted_at + 1)
    (held,) = number([again], known(ana), {}, {1: 6}).commands
    numbered = number([again], known(ana), known(held), {1: 7})
    assert (numbered.commands, numbered.redelivered, numbered.lifts) == ([], [ana.job_id], {1: Lift(by=3, seq=4)})


def test_a_seq_that_jumps_leaves_a_gap_and_is_told() -> None:
    numbered = number([reserve("ana", 9)], {}, {}, {1: 5})
    assert [c.seq for c in numbered.commands] == [9]
    ((incident),) = numbered.incidents
    assert (incident.kind, incident.detail) == ("seq_gap", {"first": 6, "last": 8})


def test_sessions_are_numbered_apart() -> None:
    numbered = number([reserve("ana", 1, 1), reserve("ana", 1, 2), reserve("bo", 2, 1)], {}, {}, {1: 0, 2: 0})
    assert [(c.session_id, c.seq) for c in numbered.commands] == [(1, 1), (2, 1), (1, 2)]
    assert numbered.incidents == []


@given(
    entries=st.lists(st.tuples(st.integers(1, 12), st.sampled_from([1, 2]), st.booleans()), max_size=20),
    last=st.integers(0, 10),
)
def test_whatever_comes_seq_grows_and_nothing_new_is_dropped(entries: list[tuple[int, int, bool]], last: int) -> None:
    commands = [reserve(f"guest{i}", seq, session) for i, (seq, session, _) in enumerate(entries)]
    before = known(*(c for c, (_, _, is_known) in zip(commands, entries, strict=True) if is_known))
    numbered = number(commands, before, {}, {1: last, 2: last})
    for session in (1, 2):
        seqs = [c.seq for c in numbered.commands if c.session_id == session]
        assert seqs == sorted(set(seqs))
        assert all(seq > last for seq in seqs)
    new = {c.job_id for c in commands} - set(before)
    assert {c.job_id for c in numbered.commands if c.kind == "reserve"} == new
