"""Long random histories: core/decide.py, in batches of any size, against the second model, one command at a time."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.decide import State, decide, evolve
from core.model import Command, Session
from tests.support.deciding import NOW, cancel, replay, reserve
from tests.unit.model import ModelSession

PEOPLE = ["ana", "bo", "cy", "dee", "eve"]
SESSIONS = [1, 2]


class Histories(RuleBasedStateMachine):
    """Commands are queued by rules, and decided together whenever `apply` comes."""

    @initialize(capacities=st.tuples(*(st.integers(0, 6) for _ in SESSIONS)))
    def begin(self, capacities: tuple[int, ...]) -> None:
        self.models = {session: ModelSession(capacity) for session, capacity in zip(SESSIONS, capacities, strict=True)}
        self.state = State({s: Session(s, capacity=m.capacity) for s, m in self.models.items()}, {})
        self.queue: list[Command] = []
        self.expected: list[str] = []
        self.seqs = dict.fromkeys(SESSIONS, 0)

    def next_seq(self, session: int) -> int:
        self.seqs[session] += 1
        return self.seqs[session]

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(PEOPLE), seats=st.integers(1, 4))
    def reserves(self, session: int, name: str, seats: int) -> None:
        seq = self.next_seq(session)
        self.queue.append(reserve(name, seq, session, seats))
        self.expected.append(self.models[session].reserve(seq, name, seats))

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(PEOPLE))
    def cancels(self, session: int, name: str) -> None:
        seq = self.next_seq(session)
        self.queue.append(cancel(name, seq, session))
        self.expected.append(self.models[session].cancel(seq, name))

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(PEOPLE))
    def is_quarantined(self, session: int, name: str) -> None:
        seq = self.next_seq(session)
        self.queue.append(reserve(name, seq, session, quarantined=True))
        self.expected.append(self.models[session].nothing(seq, "quarantined"))

    @rule(session=st.sampled_from(SESSIONS))
    def is_replayed(self, session: int) -> None:
        seq = self.next_seq(session)
        self.queue.append(replay(seq, session))
        self.expected.append(self.models[session].nothing(seq, "replayed"))

    @rule()
    def apply(self) -> None:
        decision = decide(self.state, self.queue)
        assert [verdict.outcome for verdict in decision.verdicts] == self.expected
        evolve(self.state, decision)
        self.queue, self.expected = [], []

    @invariant()
    def what_is_applied_agrees(self) -> None:
        if self.queue:
            return
        for session, model in self.models.items():
            row = self.state.sessions[session]
            assert 0 <= row.reserved <= row.capacity
            assert (row.reserved, row.last_seq) == (model.taken(), model.last_seq)
            live = [r for (s, _), r in self.state.live.items() if s == session]
            assert sorted((r.name.lower(), r.seats, r.seq) for r in live) == sorted((g.key, g.seats, g.seq) for g in model.guests)
            assert all(r.created_at == NOW + r.seq for r in live)

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.apply()
            self.what_is_applied_agrees()


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=500, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
