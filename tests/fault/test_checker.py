"""The history checker finds nothing in a right history, and finds each wrong in one that is spoiled in just that way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.fault.suite import checker
from tests.fault.suite.books import Books, Counters, Head, Held, Row
from tests.fault.suite.checker import Findings, check
from tests.fault.suite.history import Call, History, JobSeen, JobShown, SessionSeen, Wish

SESSION = 7


class Story:
    """One session of 3 places and a waitlist of 2. Seven commands, a second apart, the last two without an answer: one of them
    was applied, the other was not. A reader looked after the third command and at the end."""

    def __init__(self) -> None:
        self.history = History()
        self.rows: list[Row] = []
        self._row("create", {"capacity": 3, "waitlist_capacity": 2}, "created")
        self.comes("ana", "reserve", 1, "confirmed", [["confirmed", 1, 1]], 1)
        self.comes("bo", "reserve", 2, "confirmed", [["confirmed", 2, 2]], 2)
        self.comes("cy", "reserve", 1, "waitlisted", [["waitlisted", 3, 1]], 3)
        self.sees(version=4, last_seq=3, reserved=3)
        self.comes("ana", "cancel", None, "cancelled", [["cancelled", 1, 1], ["promoted", 3, 1]], 1)
        self.comes("dee", "reserve", 4, "sold_out", [], None)
        self.comes("eve", "reserve", 1, "waitlisted", [["waitlisted", 6, 1]], 6, answered=False)
        self.history.note(Call(self._wish("fay", "cancel", None), 9.0, 9.5, None))
        self.sees(version=7, last_seq=6, reserved=3)
        self.books = Books(
            ledger={SESSION: self.rows},
            reservations={
                SESSION: [
                    Held(1, SESSION, "ana@example.org", 1, "cancelled", 1, None),
                    Held(2, SESSION, "bo@example.org", 2, "confirmed", 2, None),
                    Held(3, SESSION, "cy@example.org", 1, "confirmed", 3, None),
                    Held(6, SESSION, "eve@example.org", 1, "waitlisted", 6, 6),
                ]
            },
            sessions={SESSION: Counters(3, 3, 1, 6, 7)},
            heads={SESSION: Head(7, 6, 3, 3, 1)},
        )

    def comes(
        self, who: str, kind: str, seats: int | None, outcome: str, effects: list[Any], held: int | None, answered: bool = True
    ) -> None:
        """A command, its row, and its answer at once."""
        wish = self._wish(who, kind, seats)
        arguments = {"email": wish.email, "email_key": wish.email}
        arguments |= {name: value for name, value in (("name", wish.name), ("seats", wish.seats)) if value is not None}
        row = self._row(kind, arguments, outcome, effects, held)
        shown = JobShown(row.job, SESSION, row.seq, str(row.accepted_ms), None)
        self.history.note(Call(wish, row.seq + 0.1, row.seq + 0.2, 202 if answered else None, shown if answered else None))
        if answered:
            self.history.jobs.append(JobSeen(replace(shown, outcome=outcome), row.seq + 0.3, row.seq + 0.4))

    def sees(self, version: int, last_seq: int, reserved: int) -> None:
        """A reader looks."""
        at = len(self.rows) - 0.3
        self.history.sessions.append(SessionSeen(SESSION, at, at + 0.1, version, last_seq, reserved, 3))

    def _wish(self, who: str, kind: str, seats: int | None) -> Wish:
        number = len(self.history.calls) + 1
        name = f"Guest {number}" if kind == "reserve" else None
        return Wish(number, SESSION, kind, f"key-number-{number}", f"{who}@example.org", seats, name)

    def _row(self, kind: str, arguments: dict[str, Any], outcome: str, effects: Any = (), held: int | None = None) -> Row:
        seq = len(self.rows)
        row = Row(
            f"job-{seq}", SESSION, seq, kind, arguments, outcome, list(effects), held, 32 * seq, None, None,
            accepted_ms=1000 * seq, applied_ms=1000 * seq,
        )  # fmt: skip
        self.rows.append(row)
        return row

    # -- how it is spoiled -----------------------------------------------------------------------------------------------

    def row(self, index: int, **changes: Any) -> None:
        """Say something else in a row."""
        self.rows[index] = replace(self.rows[index], **changes)

    def call(self, number: int, **changes: Any) -> None:
        """Let a call have gone otherwise."""
        self.history.calls[number - 1] = replace(self.history.calls[number - 1], **changes)

    def answer(self, number: int, **changes: Any) -> None:
        """Let a call have been answered otherwise."""
        job = self.history.calls[number - 1].job
        assert job is not None
        self.call(number, job=replace(job, **changes))

    def reservation(self, index: int, **changes: Any) -> None:
        """Say something else in a reservation."""
        held = self.books.reservations[SESSION]
        held[index] = replace(held[index], **changes)

    def session(self, **changes: Any) -> None:
        """Say something else in the session's row."""
        self.books.sessions[SESSION] = replace(self.books.sessions[SESSION], **changes)

    def seen(self, index: int, **changes: Any) -> None:
        """Let a reader have seen something else."""
        self.history.sessions[index] = replace(self.history.sessions[index], **changes)

    def again(self, seq: int, **changes: Any) -> None:
        """A row once more, at the end of the ledger."""
        last = len(self.rows)
        self.rows.append(replace(self.rows[seq], seq=last, position=32 * last, **changes))
        self.session(last_seq=last)


@pytest.fixture
def story() -> Story:
    return Story()


def found(story: Story) -> Findings:
    return check(story.history, story.books)


def test_nothing_is_found_in_a_right_history(story: Story) -> None:
    findings = found(story)
    assert findings.lines() == []
    assert (findings.requests, findings.accepted) == (7, 5)


def test_a_maybe_may_have_been_applied_or_not(story: Story) -> None:
    story.history.calls.pop(5)  # nobody ever sent what eve's row says
    assert found(story).counts[checker.DOUBLE] == 1


def test_a_key_that_was_sent_twice_is_one_command(story: Story) -> None:
    story.history.note(replace(story.history.calls[0], invoked=20.0, returned=21.0))
    story.history.note(replace(story.history.calls[5], invoked=20.0, returned=21.0))
    assert found(story).lines() == []


def test_a_repeat_that_redis_had_forgotten_takes_a_place_and_nothing_else(story: Story) -> None:
    story.again(1, job="replay-of-1", kind="replay", outcome="replayed", arguments={}, effects=[], replay_of="job-1")
    shown = JobShown("job-1", SESSION, 7, "20000", None)
    story.history.note(replace(story.history.calls[0], invoked=20.0, returned=21.0, job=shown))
    story.books.heads.clear()
    assert found(story).lines() == []


def test_what_was_renumbered_is_the_same_command(story: Story) -> None:
    story.answer(5, seq=3)
    story.row(5, accepted_seq=3)
    assert found(story).lines() == []


def test_whole_sessions_replay_whatever_is_in_them(story: Story) -> None:
    """Groups, settings, closing and cancelling, which the clients of the suite do not send."""
    rows = story.rows
    people = [{"email_key": "gus@example.org", "seats": 1}, {"email_key": "hal@example.org", "seats": 1}]
    more: list[tuple[str, dict[str, Any], str, list[Any]]] = [
        ("configure", {"capacity": 8}, "resized", [["promoted", 6, 1]]),
        ("group", {"people": people}, "confirmed", [["confirmed", 256, 1], ["confirmed", 257, 1]]),
        ("cancel", {"email_key": "bo@example.org", "seats": 1}, "reduced", [["reduced", 2, 1]]),
        ("configure", {"capacity": 3, "on_shrink": "waitlist"}, "resized", [["demoted", 256, 1], ["demoted", 257, 1]]),
        ("close", {}, "session_closed", []),
        ("reserve", {"email_key": "ida@example.org", "seats": 1}, "closed", []),
        ("reopen", {}, "session_reopened", []),
        ("cancel_session", {}, "cancelled", [["all_cancelled", 0, 3]]),
        ("cancel", {"email_key": "bo@example.org"}, "session_cancelled", []),
    ]
    for kind, arguments, outcome, effects in more:
        story._row(kind, arguments, outcome, effects)
    story.session(last_seq=len(rows) - 1, reserved=0, waiting=0, cancelled=True)
    story.books.heads.clear()
    findings = found(story)
    assert findings.counts.pop(checker.DOUBLE) == len(more)  # none of it came from these clients
    del findings.words[checker.DOUBLE]
    assert findings.lines() == []


# Each way to spoil it, and what must be found then; it may be more than that.
SPOILED: dict[str, tuple[str, Callable[[Story], object]]] = {
    "an accepted command has no row": (checker.LOST, lambda s: s.rows.pop(5)),
    "an accepted command in the middle has no row": (checker.LOST, lambda s: s.rows.pop(2)),
    "a number is missing": (checker.GAP, lambda s: s.rows.pop(2)),
    "its row is under another id": (checker.LOST, lambda s: s.row(2, job="another")),
    "its row is somebody else's": (checker.LOST, lambda s: s.row(2, arguments={**s.rows[2].arguments, "email": "x@example.org"})),
    "its row is of another kind": (checker.LOST, lambda s: s.row(1, kind="cancel")),
    "its job is still queued": (checker.LOST, lambda s: s.books.queued.append("job-2")),
    "a command is applied twice": (checker.DOUBLE, lambda s: s.again(1, job="another", outcome="duplicate", effects=[])),
    "a job is there twice": (checker.DOUBLE, lambda s: s.again(1, outcome="duplicate", effects=[])),
    "a seq is there twice": (checker.DOUBLE, lambda s: s.row(3, seq=2)),
    "a maybe is applied twice": (checker.DOUBLE, lambda s: s.again(6, job="another", outcome="duplicate", effects=[])),
    "a refused call was applied": (checker.DOUBLE, lambda s: s.call(6, status=503, code="queue_full")),
    "somebody has two reservations": (checker.DOUBLE, lambda s: s.reservation(0, person="bo@example.org", status="confirmed")),
    "more was sold than there is": (
        checker.OVERBOOKED,
        lambda s: s.row(5, outcome="confirmed", effects=[["confirmed", 5, 4]], reservation=5),
    ),
    "places were given back twice": (checker.OVERBOOKED, lambda s: s.row(4, effects=[["cancelled", 1, 1], ["reduced", 2, 5]])),
    "rows hold more than there is": (checker.OVERBOOKED, lambda s: s.reservation(0, status="confirmed")),
    "the counter is above capacity": (checker.OVERBOOKED, lambda s: s.session(reserved=4)),
    "a reader saw more than there is": (checker.OVERBOOKED, lambda s: s.seen(0, reserved=4)),
    "who was answered first comes second": (checker.OUT_OF_ORDER, lambda s: s.call(2, invoked=5.5, returned=5.6)),
    "a maybe overtakes": (checker.OUT_OF_ORDER, lambda s: (s.call(6, invoked=0.01), s.call(1, invoked=8.0, returned=8.1))),
    "a later seq was applied earlier": (checker.OUT_OF_ORDER, lambda s: s.row(3, position=1)),
    "two jobs for one key": (checker.ANSWERS, lambda s: s.history.note(replace(s.history.calls[0], job=s.history.calls[1].job))),
    "an answer has another seq": (checker.ANSWERS, lambda s: s.answer(2, seq=5)),
    "an answer has another time": (
        checker.ANSWERS,
        lambda s: s.history.note(replace(s.history.calls[0], job=replace(s.history.calls[0].job, accepted_at="0"))),  # type: ignore[type-var]
    ),
    "an answer has another outcome": (checker.ANSWERS, lambda s: s.answer(5, outcome="confirmed")),
    "an outcome is not the model's": (checker.OUTCOME, lambda s: s.row(5, outcome="waitlisted", effects=[["waitlisted", 5, 4]])),
    "a refusal has the wrong reason": (checker.OUTCOME, lambda s: s.row(5, outcome="closed")),
    "a reservation is missing": (checker.ROWS, lambda s: s.books.reservations[SESSION].pop(1)),
    "a reservation has other seats": (checker.ROWS, lambda s: s.reservation(1, seats=1)),
    "a cancelled one is alive": (checker.ROWS, lambda s: s.reservation(0, status="waitlisted", rank=9)),
    "who waits has a place": (checker.ROWS, lambda s: s.reservation(3, status="confirmed")),
    "the wrong one was let in": (checker.ROWS, lambda s: s.row(4, effects=[["cancelled", 1, 1], ["promoted", 6, 1]])),
    "nobody was let in": (checker.ROWS, lambda s: s.row(4, effects=[["cancelled", 1, 1]])),
    "the counter is not the rows'": (checker.ROWS, lambda s: s.session(reserved=2)),
    "the waiting are miscounted": (checker.ROWS, lambda s: s.session(waiting=2)),
    "the session is behind its ledger": (checker.ROWS, lambda s: s.session(last_seq=5)),
    "the capacity is another": (checker.ROWS, lambda s: s.session(capacity=4)),
    "the ledger has no beginning": (checker.ROWS, lambda s: s.rows.pop(0)),
    "Redis has other counts": (checker.COUNTS, lambda s: s.books.heads.update({SESSION: Head(7, 6, 3, 2, 1)})),
    "Redis has an older version": (checker.COUNTS, lambda s: s.books.heads.update({SESSION: Head(6, 6, 3, 3, 1)})),
    "an outcome changed": (
        checker.WENT_BACK,
        lambda s: s.history.jobs.append(JobSeen(JobShown("job-1", SESSION, 1, "1000", "sold_out"), 20, 21)),
    ),
    "an outcome is not the ledger's": (checker.WENT_BACK, lambda s: s.row(5, outcome="too_many_seats")),
    "a job was queued again": (
        checker.WENT_BACK,
        lambda s: s.history.jobs.append(JobSeen(JobShown("job-1", SESSION, 1, "1000", None), 20, 21)),
    ),
    "a version went back": (checker.WENT_BACK, lambda s: s.seen(1, version=3)),
    "an effect was not yet to be seen": (checker.WENT_BACK, lambda s: s.seen(1, last_seq=4)),
    "an answer nobody should get": (checker.UNEXPECTED, lambda s: s.call(6, status=500)),
}


@pytest.mark.parametrize("way", SPOILED)
def test_what_is_spoiled_is_found(story: Story, way: str) -> None:
    sort, spoil = SPOILED[way]
    spoil(story)
    findings = found(story)
    assert findings.counts[sort] > 0, findings.lines()


def test_the_four_columns_are_counted_apart(story: Story) -> None:
    """A history spoiled in one of these ways does not look spoiled in another."""
    columns = (checker.LOST, checker.DOUBLE, checker.OVERBOOKED, checker.OUT_OF_ORDER)
    story.call(2, invoked=5.5, returned=5.6)
    assert [found(story).counts[sort] > 0 for sort in columns] == [False, False, False, True]
    again = Story()
    again.reservation(0, status="confirmed")
    assert [found(again).counts[sort] > 0 for sort in columns] == [False, False, True, False]
