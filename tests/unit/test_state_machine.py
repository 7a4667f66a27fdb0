"""Long random histories: core/decide.py, in batches of any size, against the second model, one command at a time.

Batches are decided twice: with all there is to know, and with the windows that the drain would load, which must be enough.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from core.decide import State, decide, may_demote, newest_confirmed
from core.model import CANCEL_SESSION, CLOSE, REOPEN, WAITLISTED, Command, Reservation, Session
from core.replay import complete, evolve
from core.service import _waitlist_needs
from core.waitlist import Window
from tests.support.deciding import NOW, amend, cancel, configure, group, replay, reserve, turn
from tests.unit.model import ModelSession, rules_of

PEOPLE = ["ana", "bo", "cy", "dee", "eve", "fay", "gus", "hal"]
SESSIONS = [1, 2]
SEATS = st.integers(1, 4)
TIMES = st.none() | st.integers(NOW, NOW + 60)
session_ids = st.sampled_from(SESSIONS)
people = st.sampled_from(PEOPLE)
owners = st.sampled_from(["open", "open", "shop"])

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "capacity": st.integers(0, 8),
        "waitlist_capacity": st.integers(0, 5),
        "waitlist_policy": st.sampled_from(["strict", "fill"]),
        "max_seats_per_reservation": st.integers(1, 4),
        "opens_at": TIMES,
        "closes_at": TIMES,
        "start_time": st.integers(NOW + 20, NOW + 200),
        "end_time": st.integers(NOW + 20, NOW + 250),
    },
)


def as_loaded(state: State, commands: list[Command]) -> State:
    """The state as the drain loads it from Postgres: of each waitlist only as much as the batch may reach."""
    live = {key: row for key, row in state.live.items() if any(key[0] == c.session_id for c in commands)}
    windows: dict[int, Window] = {}
    for need in _waitlist_needs(state.sessions, live, commands):
        rows = sorted(
            (r for r in live.values() if r.session_id == need.session_id and r.status == WAITLISTED), key=lambda r: r.rank
        )
        loaded = [row for i, row in enumerate(rows) if sum(r.seats == row.seats for r in rows[:i]) < need.limit(row.seats)]
        windows[need.session_id] = need.window(loaded)
    newest = {
        c.session_id: newest_confirmed(r for r in live.values() if r.session_id == c.session_id)
        for c in commands
        if may_demote(c)
    }
    return State(state.sessions, live, windows, newest)


class Histories(RuleBasedStateMachine):
    """Commands are queued by rules, and decided together whenever `apply` comes."""

    @initialize(sizes=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.booleans()), min_size=2, max_size=2))
    def begin(self, sizes: list[tuple[int, int, bool]]) -> None:
        self.models = {s: ModelSession(*size) for s, size in zip(SESSIONS, sizes, strict=True)}
        self.state = State(
            {
                s: Session(s, m.capacity, waitlist_capacity=m.queue_limit, waitlist_policy="fill" if m.passing else "strict")
                for s, m in self.models.items()
            },
            {},
        )
        self.queue: list[Command] = []
        self.expected: list[str] = []
        self.seqs = dict.fromkeys(SESSIONS, 0)
        self.asked: list[tuple[int, str, int, int]] = []  # session, who, the id their reservation gets if any, seq

    def next(self, session: int) -> tuple[ModelSession, int, int]:
        """The model, the next seq, and the moment of its acceptance."""
        self.seqs[session] += 1
        return self.models[session], self.seqs[session], NOW + self.seqs[session]

    def comes(self, command: Command, expected: str) -> None:
        self.queue.append(command)
        self.expected.append(expected)

    @rule(session=session_ids, name=people, seats=SEATS, owner=owners)
    def reserves(self, session: int, name: str, seats: int, owner: str) -> None:
        model, seq, now = self.next(session)
        command = reserve(name, seq, session, seats, client=owner)
        self.asked.append((session, name, command.position, seq))
        self.comes(command, model.reserve(seq, now, name, seats, owner))

    @rule(session=session_ids, party=st.lists(st.tuples(people, SEATS), min_size=1, max_size=3))
    def come_together(self, session: int, party: list[tuple[str, int]]) -> None:
        model, seq, now = self.next(session)
        command = group(seq, party, session)
        self.asked += [(session, name, command.position + place, seq) for place, (name, _) in enumerate(party)]
        self.comes(command, model.group(seq, now, party))

    @rule(session=session_ids, name=people, seats=st.none() | SEATS, owner=owners, anybody=st.booleans())
    def cancels(self, session: int, name: str, seats: int | None, owner: str, anybody: bool) -> None:
        model, seq, now = self.next(session)
        command = cancel(name, seq, session, seats=seats, any_client=anybody, client=owner)
        self.comes(command, model.cancel(seq, now, name, seats, None if anybody else owner))

    @rule(whose=st.integers(0, 9), name=st.none() | people, comes=st.none() | st.booleans())
    def is_met_at_the_entrance(self, whose: int, name: str | None, comes: bool | None) -> None:
        if not self.asked:
            return
        session, who, reservation, came_as = self.asked[-1 - whose % len(self.asked)]
        model, seq, _ = self.next(session)
        changes: dict[str, Any] = {} if name is None else {"name": name.title()}
        command = amend(who, seq, reservation, session, **changes, **({} if comes is None else {"checked_in": comes}))
        self.comes(command, model.amend(seq, who, came_as, changes.get("name"), comes))

    @rule(session=session_ids, changes=CHANGES, send_out=st.booleans())
    def is_configured(self, session: int, changes: dict[str, Any], send_out: bool) -> None:
        model, seq, _ = self.next(session)
        command = configure(seq, session, **changes, on_shrink="waitlist" if send_out else "refuse")
        self.comes(command, model.configure(seq, rules_of(changes), send_out))
        if may_demote(command) and len(self.queue) > 1:  # the drain gives it a batch of its own, and so do we
            last, told = self.queue.pop(), self.expected.pop()
            self.apply()
            self.queue, self.expected = [last], [told]
        self.apply()

    @rule(session=session_ids, kind=st.sampled_from([CLOSE, REOPEN, REOPEN]))
    def is_closed_or_reopened(self, session: int, kind: str) -> None:
        model, seq, _ = self.next(session)
        self.comes(turn(kind, seq, session), model.close(seq) if kind == CLOSE else model.reopen(seq))

    @rule(session=session_ids, really=st.integers(0, 15))
    def is_called_off(self, session: int, really: int) -> None:
        if really:  # seldom, because little happens afterwards
            return
        model, seq, _ = self.next(session)
        self.comes(turn(CANCEL_SESSION, seq, session), model.call_off(seq))

    @rule(session=session_ids, name=people, quarantined=st.booleans())
    def holds_a_place_only(self, session: int, name: str, quarantined: bool) -> None:
        model, seq, _ = self.next(session)
        command = cancel(name, seq, session, quarantined=True) if quarantined else replay(seq, session)
        self.comes(command, model.nothing(seq, "quarantined" if quarantined else "replayed"))

    @rule()
    def apply(self) -> None:
        decision = decide(complete(self.state, self.queue), self.queue)
        assert [verdict.outcome for verdict in decision.verdicts] == self.expected
        assert decide(as_loaded(self.state, self.queue), self.queue) == decision
        evolve(self.state, decision)
        self.queue, self.expected = [], []

    @invariant()
    def what_is_applied_agrees(self) -> None:
        if self.queue:
            return
        for session, model in self.models.items():
            row = self.state.sessions[session]
            assert 0 <= row.reserved <= row.capacity
            assert (row.capacity - row.reserved, row.waiting, row.last_seq) == (model.free(), len(model.queue), model.last_seq)
            live = [r for (s, _), r in self.state.live.items() if s == session]
            inside = sorted((_key(r), r.seats, r.seq, r.checked_in_at is not None) for r in live if r.status != WAITLISTED)
            assert inside == sorted((g.key, g.seats, g.seq, g.is_here) for g in model.inside)
            assert {_key(r): r.name for r in live} == {g.key: g.name or g.key.title() for g in (*model.inside, *model.queue)}
            waiting = sorted((r for r in live if r.status == WAITLISTED), key=lambda r: (r.rank, r.id))
            assert [(_key(r), r.seats, r.seq) for r in waiting] == [(g.key, g.seats, g.seq) for g in model.queue]

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.apply()
            self.what_is_applied_agrees()


def _key(row: Reservation) -> str:
    return row.email_key.partition("@")[0]


def chosen(examples: int) -> settings:
    """So many histories of up to 60 steps."""
    return settings(max_examples=examples, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def hold_through(examples: int, seed: int) -> None:
    """Try so many histories from a seed: `make faults` has more of them than a test. Raises what the first wrong one raises."""
    run_state_machine_as_test(seeded(seed)(Histories), settings=settings(chosen(examples), database=None))


TestHistories = Histories.TestCase
TestHistories.settings = chosen(500)
