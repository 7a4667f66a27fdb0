"""The history checker: what clients saw against what the books hold, by a model of its own (`tests/unit/model.py`).

It shares no code with core. Lost: a 202 without its one row in the ledger, or whose row says something else. Double: a row
that no single wish accounts for. Overbooked: a step of the ledger, or the rows it left, over capacity. Out of order: somebody
who was answered before another one asked comes after them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.fault.suite.books import Books, Held, Row
from tests.fault.suite.history import ACCEPTED, MAYBE, Call, History, JobShown, Wish
from tests.unit.model import ModelSession, rules_of

SHOWN = 5  # of each sort
INSIDE = ("confirmed", "promoted")


@dataclass(slots=True)
class Findings:
    """What is wrong: how often, by sort, and the first ones in words."""

    counts: Counter[str] = field(default_factory=Counter)
    words: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    requests: int = 0
    accepted: int = 0

    def found(self, sort: str, what: str) -> None:
        """Note one."""
        self.counts[sort] += 1
        if len(self.words[sort]) < SHOWN:
            self.words[sort].append(what)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.counts

    def lines(self) -> list[str]:
        """All of it, for people."""
        return [
            f"{sort} ({self.counts[sort]}): {what}" for sort, whats in sorted(self.words.items()) for what in whats
        ]


# The sorts. The first four are columns of the table.
LOST = "lost"
DOUBLE = "double"
OVERBOOKED = "overbooked"
OUT_OF_ORDER = "out of order"
GAP = "gap"  # a number that the ledger does not have; an accepted command may have had it
ANSWERS = "answers"  # two answers, or an answer and the ledger, disagree
OUTCOME = "outcome"  # not what the model says
ROWS = "rows"  # reservations or counters are not what the ledger leads to
COUNTS = "counts"  # Redis disagrees with Postgres
WENT_BACK = "went back"  # a reader saw something undone
UNEXPECTED = "unexpected"  # an answer nobody should get


def check(history: History, books: Books, expected_statuses: Collection[int] = ()) -> Findings:
    """Check a history against the books of the same sessions, when nothing is on its way any more.

    `expected_statuses`: answers that this fault may lead to, besides 202, 201, 200, 404, 409 and 503.
    """
    findings = Findings(requests=len(history.calls))
    sent: dict[int, list[Call]] = defaultdict(list)
    for call in history.calls:
        sent[call.wish.number].append(call)
        if call.status not in (None, 200, 201, 202, 404, 409, 503, *expected_statuses):
            findings.found(UNEXPECTED, f"{call.status} {call.code} for {call.wish}")
    rows = {row.job: row for row in books.rows()}
    applied = _accepted(findings, sent, rows, books)
    applied |= _maybe(findings, sent, books, {row.job for row in applied.values()})
    _order(findings, sent, applied)
    for session in books.sessions:
        _ledger(findings, books, session)
        _places(findings, books, session)
        _model(findings, books, session)
        _redis(findings, books, session)
    for job in books.queued:
        findings.found(LOST, f"job {job} is still queued, and nothing waits")
    _seen(findings, history, rows)
    return findings


# -- each wish and its row -----------------------------------------------------------------------------------------------


def _accepted(findings: Findings, sent: dict[int, list[Call]], rows: dict[str, Row], books: Books) -> dict[int, Row]:
    """The row of every wish that was answered with a job."""
    applied: dict[int, Row] = {}
    replays = {(row.replay_of, row.seq) for row in books.rows() if row.kind == "replay"}
    for number, calls in sent.items():
        shown = [call.job for call in calls if call.job is not None]
        if not shown:
            continue
        findings.accepted += 1
        wish, job = calls[0].wish, shown[0]
        if len({(j.id, j.session) for j in shown}) > 1:
            findings.found(ANSWERS, f"several jobs for one key: {shown}")
        row = rows.get(job.id)
        if row is None:
            findings.found(LOST, f"job {job.id}, seq {job.seq} of session {job.session}, is not in the ledger")
            continue
        applied[number] = row
        if not _is_of(row, wish):
            findings.found(LOST, f"{wish} was accepted as job {job.id}, whose row is {row}")
        _answers_agree(findings, shown, row, replays)
    return applied


def _answers_agree(findings: Findings, shown: list[JobShown], row: Row, replays: set[tuple[str | None, int]]) -> None:
    for job in shown:
        if job.seq not in (row.seq, row.accepted_seq) and (job.id, job.seq) not in replays:
            findings.found(ANSWERS, f"job {job.id} was given seq {job.seq}; the ledger has {row.seq}")
        if job.outcome is not None and job.outcome != row.outcome:
            findings.found(ANSWERS, f"job {job.id} was told {job.outcome}; the ledger has {row.outcome}")
    if len({(job.seq, job.accepted_at) for job in shown if (job.id, job.seq) not in replays}) > 1 and row.accepted_seq is None:
        findings.found(ANSWERS, f"one job, answered differently: {shown}")


def _maybe(findings: Findings, sent: dict[int, list[Call]], books: Books, taken: set[str]) -> dict[int, Row]:
    """Rows that no answer told of: each must be a wish of which nobody knew, and each such wish accounts for one."""
    applied: dict[int, Row] = {}
    open_wishes: dict[tuple[Any, ...], list[Wish]] = defaultdict(list)
    for calls in sent.values():
        if not any(call.fate == ACCEPTED for call in calls) and any(call.fate == MAYBE for call in calls):
            open_wishes[_signature(calls[0].wish)].append(calls[0].wish)
    for row in books.rows():
        if row.job in taken or row.kind == "replay":
            continue
        candidates = open_wishes.get(_row_signature(row))
        if not candidates:
            findings.found(DOUBLE, f"nobody asked for {row}")
            continue
        wish = candidates.pop()
        if row.kind == "reserve":  # whose name is its own; of cancels that look alike it may be any
            applied[wish.number] = row
    return applied


def _signature(wish: Wish) -> tuple[Any, ...]:
    return (wish.session, wish.kind, wish.email, wish.seats, wish.name)


def _row_signature(row: Row) -> tuple[Any, ...]:
    a = row.arguments
    return (row.session, row.kind, a.get("email"), a.get("seats"), a.get("name"))


def _is_of(row: Row, wish: Wish) -> bool:
    return _row_signature(row) == _signature(wish)


# -- order ---------------------------------------------------------------------------------------------------------------


def _order(findings: Findings, sent: dict[int, list[Call]], applied: dict[int, Row]) -> None:
    """If A was answered before B was sent, A's seq is smaller. From the last seq backwards: who of those was answered first?"""
    by_session: dict[int, list[tuple[int, float, float, Wish]]] = defaultdict(list)
    for number, row in applied.items():
        calls = sent[number]
        known = min((call.returned for call in calls if call.fate == ACCEPTED), default=float("inf"))
        by_session[row.session].append((row.seq, min(call.invoked for call in calls), known, calls[0].wish))
    for entries in by_session.values():
        earliest, who = float("inf"), None
        for seq, invoked, known, wish in sorted(entries, key=lambda entry: entry[0], reverse=True):
            if earliest < invoked:
                findings.found(OUT_OF_ORDER, f"{who} was answered before {wish} (seq {seq}) asked, and comes after it")
            if known < earliest:
                earliest, who = known, wish


# -- the ledger by itself ------------------------------------------------------------------------------------------------


def _ledger(findings: Findings, books: Books, session: int) -> None:
    """Every number once and none missing, applied in that order, and each job one row."""
    rows = books.ledger[session]
    if not rows or rows[0].kind != "create":
        findings.found(ROWS, f"the ledger of session {session} does not begin with its creation")
        return
    seqs = [row.seq for row in rows]
    for before, after in itertools.pairwise(rows):
        if after.seq == before.seq:
            findings.found(DOUBLE, f"seq {after.seq} of session {session} is there twice")
        elif after.seq != before.seq + 1:
            findings.found(GAP, f"session {session} has nothing between seq {before.seq} and {after.seq}")
        elif after.position <= before.position:
            findings.found(OUT_OF_ORDER, f"seq {after.seq} of session {session} was applied before its predecessor")
    for job, count in Counter(row.job for row in rows).items():
        if count > 1:
            findings.found(DOUBLE, f"job {job} is there {count} times")
    if books.sessions[session].last_seq != seqs[-1]:
        findings.found(ROWS, f"session {session} is at seq {books.sessions[session].last_seq}, its ledger at {seqs[-1]}")


def _places(findings: Findings, books: Books, session: int) -> None:
    """Walk through what the ledger says it did: places taken after each step, and the rows that are left of it."""
    capacity = 0
    held: dict[int, list[Any]] = {}  # seats, inside
    reserved = 0
    for row in books.ledger[session]:
        if row.outcome in ("created", "resized"):
            capacity = row.arguments.get("capacity", capacity)
        for kind, reservation, seats in row.effects:
            before = held.get(reservation, (0, False))
            if kind in INSIDE:
                held[reservation] = [seats, True]
            elif kind in ("waitlisted", "demoted"):
                held[reservation] = [seats, False]
            elif kind == "reduced":
                held[reservation] = [before[0] - seats, before[1]]
            elif kind == "cancelled":
                held.pop(reservation, None)
            elif kind == "all_cancelled":
                held.clear()
                reserved, before = 0, (0, False)
            after = held.get(reservation, (0, False))
            reserved += after[0] * after[1] - before[0] * before[1]
        if not 0 <= reserved <= capacity:
            findings.found(OVERBOOKED, f"session {session}: {reserved} of {capacity} after seq {row.seq}")
    _rows_left(findings, books, session, held)


def _rows_left(findings: Findings, books: Books, session: int, held: dict[int, list[Any]]) -> None:
    found = books.sessions[session]
    live = [row for row in books.reservations[session] if row.status != "cancelled" and not found.cancelled]
    taken = sum(row.seats for row in live if row.status == "confirmed")
    if not 0 <= taken <= found.capacity or not 0 <= found.reserved <= found.capacity:
        findings.found(OVERBOOKED, f"session {session}: rows hold {taken}, the counter says {found.reserved} of {found.capacity}")
    if (found.reserved, found.waiting) != (taken, sum(row.status == "waitlisted" for row in live)):
        findings.found(ROWS, f"session {session}: its counters {found} are not those of its rows")
    if {row.id: [row.seats, row.status == "confirmed"] for row in live} != held:
        findings.found(ROWS, f"session {session}: its reservations are not what its ledger did")
    for person, count in Counter(row.person for row in live).items():
        if count > 1:
            findings.found(DOUBLE, f"{person} has {count} live reservations of session {session}")


# -- the model -----------------------------------------------------------------------------------------------------------


def _model(findings: Findings, books: Books, session: int) -> None:
    """The same commands through the model, in seq order: equal outcomes, and at the end the same people in the same places."""
    rows = books.ledger[session]
    if not rows or rows[0].kind != "create":
        return
    model = ModelSession(0)
    for name, value in rules_of(rows[0].arguments).items():
        setattr(model, name, value)
    came_as = {(row.id, row.person): row.seq for row in books.reservations[session]}
    for row in rows[1:]:
        told = _told(model, row, came_as)
        if told != row.outcome:
            findings.found(OUTCOME, f"session {session}, seq {row.seq}, {row.kind}: {row.outcome}; the model says {told}")
    held = books.reservations[session]
    live = [row for row in held if row.status != "cancelled" and not books.sessions[session].cancelled]
    inside = sorted((g.key, g.seats, g.seq) for g in model.inside)
    if sorted(_as_guest(row) for row in live if row.status == "confirmed") != inside:
        findings.found(ROWS, f"session {session}: who has places is not who has them by the model")
    if [_as_guest(row) for row in live if row.status == "waitlisted"] != [(g.key, g.seats, g.seq) for g in model.queue]:
        findings.found(ROWS, f"session {session}: its waitlist is not the model's")
    if books.sessions[session].capacity != model.capacity:
        findings.found(ROWS, f"session {session}: capacity {books.sessions[session].capacity}; the model says {model.capacity}")


def _told(model: ModelSession, row: Row, came_as: dict[tuple[int, str], int]) -> str:
    """What the model says to one row; `came_as`: the seq of the request that made each reservation, by its id and person."""
    seq, now, a = row.seq, row.accepted_ms, row.arguments
    if row.outcome == "quarantined" or row.kind == "replay":
        return model.nothing(seq, row.outcome)
    if row.kind == "reserve":
        return model.reserve(seq, now, a["email_key"], a["seats"])
    if row.kind == "cancel":
        return model.cancel(seq, now, a["email_key"], a.get("seats"))
    if row.kind == "group":
        return model.group(seq, now, [(person["email_key"], person["seats"]) for person in a["people"]])
    if row.kind == "amend":
        which = came_as.get((a["reservation_id"], a["email_key"]))
        return model.amend(seq, a["email_key"], which, a.get("name"), a.get("checked_in"))
    if row.kind == "configure":
        return model.configure(seq, rules_of(a), a.get("on_shrink") == "waitlist")
    return {"close": model.close, "reopen": model.reopen, "cancel_session": model.call_off}[row.kind](seq)


def _as_guest(row: Held) -> tuple[str, int, int]:
    return (row.person, row.seats, row.seq)


# -- Redis, and what readers saw -----------------------------------------------------------------------------------------


def _redis(findings: Findings, books: Books, session: int) -> None:
    head, row = books.heads.get(session), books.sessions[session]
    if head is None:
        return  # forgotten: the next reader brings it back from Postgres
    stored = (row.version, row.last_seq, row.capacity, row.reserved, row.waiting)
    if (head.version, head.last_seq, head.capacity, head.reserved, head.waiting) != stored:
        findings.found(COUNTS, f"session {session}: Redis has {head}, Postgres {row}")


def _seen(findings: Findings, history: History, rows: dict[str, Row]) -> None:
    """Nothing that was seen is undone later: no outcome, no version, and who saw an outcome sees its effect."""
    outcomes: dict[str, str] = {}
    by_session: dict[int, list[tuple[float, int, int, str]]] = defaultdict(list)
    sightings: dict[int, list[tuple[float, float, int, int]]] = defaultdict(list)
    for seen in history.sessions:
        by_session[seen.session].append((seen.returned, seen.version, seen.last_seq, "session"))
        sightings[seen.session].append((seen.invoked, seen.returned, seen.version, seen.last_seq))
        if not 0 <= seen.reserved <= seen.capacity:
            findings.found(OVERBOOKED, f"a reader saw {seen}")
    for seen in sorted(history.jobs, key=lambda job: job.returned):
        job = seen.job
        if job.outcome is None:
            continue
        if outcomes.setdefault(job.id, job.outcome) != job.outcome:
            findings.found(WENT_BACK, f"job {job.id} was {outcomes[job.id]}, then {job.outcome}")
        by_session[job.session].append((seen.returned, 0, job.seq, f"job {job.id}"))
        if job.id in rows and rows[job.id].outcome != job.outcome:
            findings.found(WENT_BACK, f"job {job.id} was {job.outcome}; the ledger has {rows[job.id].outcome}")
    _never_queued_again(findings, history)
    for session, later in sightings.items():
        _never_back(findings, session, sorted(by_session[session]), sorted(later))


def _never_queued_again(findings: Findings, history: History) -> None:
    first: dict[str, float] = {}
    for seen in history.jobs:
        if seen.job.outcome is not None:
            first[seen.job.id] = min(first.get(seen.job.id, float("inf")), seen.returned)
    for seen in history.jobs:
        if seen.job.outcome is None and first.get(seen.job.id, float("inf")) < seen.invoked:
            findings.found(WENT_BACK, f"job {seen.job.id} had its outcome, and was queued again")


def _never_back(
    findings: Findings,
    session: int,
    known: Iterable[tuple[float, int, int, str]],
    sightings: list[tuple[float, float, int, int]],
) -> None:
    """Whoever begins to read after something was seen sees that or something newer."""
    waiting = iter(known)
    following = next(waiting, None)
    version = last_seq = 0
    for invoked, _, seen_version, seen_seq in sightings:
        while following is not None and following[0] < invoked:
            version, last_seq = max(version, following[1]), max(last_seq, following[2])
            following = next(waiting, None)
        if seen_version < version or seen_seq < last_seq:
            findings.found(
                WENT_BACK,
                f"session {session} was at version {version}, seq {last_seq}, then at {seen_version}, seq {seen_seq}",
            )
