"""What must hold: `Observer` looks after every step, as a reader of Redis would; `check` when everything has come to rest.

The ledger is replayed by the second model, tests/unit/model.py, which shares no code with core/decide.py.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.entries import Entry, decode_entry, decode_job, head_text
from core.mailbox import key
from core.model import (
    CANCEL_SESSION,
    DEMOTE,
    FILL,
    OF_ANOTHER,
    QUARANTINED,
    REPLAY,
    UNSET,
    WAITLISTED,
    Command,
    Job,
    Session,
    partition_of_job,
)
from core.service import DEATHS_TO_QUARANTINE
from tests.sim.postgres_in_memory import Row
from tests.unit.model import ModelSession

if TYPE_CHECKING:
    from tests.sim.scheduler import Run
    from tests.sim.world import Call

MODEL_NAMES = {
    "capacity": "capacity",
    "waitlist_capacity": "queue_limit",
    "max_seats_per_reservation": "most_seats",
    "opens_at": "opens",
    "closes_at": "closes",
    "start_time": "starts",
    "end_time": "ends",
}


class Observer:
    """Looks at Redis as the API's readers do."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._mailboxes = [key(partition, "mailbox") for partition in range(run.world.partitions)]
        self._heads = {session_id: key(run.world.partition(session_id), f"s:{session_id}") for session_id in run.world.created}
        self._versions = dict.fromkeys(self._heads, 0)
        self._read: dict[tuple[str, bytes], Entry] = {}
        self._seen = 0

    def forget(self) -> None:
        """Redis lost data: what it showed before is no promise any more."""
        self._versions = dict.fromkeys(self._heads, 0)

    def waiting(self) -> dict[str, Entry]:
        """The jobs whose entries are in a mailbox."""
        found = {}
        for mailbox in self._mailboxes:
            for entry, (seq, command) in (self._world.redis.get(mailbox) or {}).items():
                read = self._read.get((entry, command)) or self._decoded(entry, seq, command)
                found[read.command.job_id] = read
        return found

    def is_anything_waiting(self) -> bool:
        """Whether a mailbox holds anything."""
        return any(self._world.redis.get(mailbox) for mailbox in self._mailboxes)

    def _decoded(self, entry: str, seq: int, command: bytes) -> Entry:
        read = decode_entry(entry, {b"s": b"%d" % seq, b"c": command})
        assert isinstance(read, Entry), read
        self._read[entry, command] = read
        return read

    def head(self, session_id: int) -> dict[str, Any] | None:
        """A session's head, if Redis has it."""
        return self._world.redis.get(self._heads[session_id])

    def look(self) -> None:
        """After a step: counts have not gone back, and who sees an outcome sees its effect."""
        assert not self._world.surprises, f"a worker failed: {self._world.surprises[0]!r}"
        for session_id, name in self._heads.items():
            head = self._world.redis.get(name)
            if head is not None:
                assert head["v"] >= self._versions[session_id], f"session {session_id}: its counts went back"
                self._versions[session_id] = head["v"]
        announced = self._world.redis.announced
        while self._seen < len(announced):
            self._look_at(announced[self._seen])
            self._seen += 1
        if self._run.lost:
            self._run.lost -= self.waiting().keys()

    def _look_at(self, job_id: str) -> None:
        job = self.job(job_id)
        if job is None or job.outcome is None:
            return
        row = self._world.store.jobs.get(job_id)
        assert row is not None, f"job {job_id} shows an outcome that is not committed"
        assert (job.outcome, job.seq) == (row.verdict.outcome, row.verdict.command.seq), f"job {job_id} is not what was committed"
        head = self.head(job.session_id)
        assert head is None or head["a"] >= job.seq, f"job {job_id} shows its outcome, and the counts do not yet"

    def job(self, job_id: str) -> Job | None:
        """A job as Redis has it."""
        record = self._world.redis.get(key(partition_of_job(job_id, self._world.partitions), f"job:{job_id}"))
        return decode_job(record, job_id) if record else None


def check(run: Run) -> None:
    """Everything, once nothing moves any more."""
    assert not run.observer.is_anything_waiting()
    ledger = {session_id: _rows_of(run, session_id) for session_id in run.world.created}
    for session_id, rows in ledger.items():
        _check_order(run, session_id, rows)
        _check_session(run, run.world.created[session_id], rows)
    _check_calls(run)
    _check_first_come_first_served(run)
    _check_redis(run)


def _rows_of(run: Run, session_id: int) -> list[Row]:
    rows = [row for (session, _), row in run.world.store.by_seq.items() if session == session_id]
    return sorted(rows, key=lambda row: row.verdict.command.seq)


def _check_order(run: Run, session_id: int, rows: list[Row]) -> None:
    """seq is gapless, or the gap is recorded; and nothing looks like lost data where nothing was lost."""
    name = f"session {session_id}"
    commands = [row.verdict.command for row in rows]
    last_seq = run.world.store.sessions[session_id].last_seq
    assert last_seq == (commands[-1].seq if commands else 0), f"{name}: its last seq is {last_seq}"
    in_order = all(a.position < b.position for a, b in itertools.pairwise(commands))
    assert in_order, f"{name}: applied in another order than numbered"
    incidents = [i for i in run.world.store.incidents if i.session_id == session_id]
    gaps = {seq for i in incidents if i.kind == "seq_gap" for seq in range(i.detail["first"], i.detail["last"] + 1)}
    missing = set(range(1, last_seq + 1)) - {command.seq for command in commands}
    assert missing == gaps, f"{name}: seqs {sorted(missing)} are missing, {sorted(gaps)} are recorded as missing"
    assert len(gaps) <= run.lost_entries, f"{name}: seqs {sorted(gaps)} are recorded as lost, and {run.lost_entries} were"
    moved = [command.seq for command in commands if command.accepted_seq is not None]
    assert moved == [i.detail["seq"] for i in incidents if i.kind == "renumbered"], f"{name}: renumbered, and not recorded"
    if not run.losses:
        assert not incidents, f"{name}: nothing was lost, and there are {incidents}"
        assert run.forgot or all(c.kind != REPLAY for c in commands), f"{name}: accepted twice"


def _check_session(run: Run, created: Session, rows: list[Row]) -> None:
    """The second model comes to the same outcomes, and to the same people inside and waiting, as the database holds."""
    name = f"session {created.id}"
    model = ModelSession(
        **{MODEL_NAMES[setting]: getattr(created, setting) for setting in MODEL_NAMES}, passing=created.waitlist_policy == FILL
    )
    came_as = {(r.id, r.email_key): r.seq for r in run.world.store.reservations.values() if r.session_id == created.id}
    for row in rows:
        expected = _told(model, row.verdict.command, came_as)
        assert row.verdict.outcome == expected, f"{name}, seq {row.verdict.command.seq}: {row.verdict}, and not {expected}"
    session = run.world.store.sessions[created.id]
    found = [r for r in run.world.store.reservations.values() if r.session_id == created.id and r.status != "cancelled"]
    if session.cancelled_at is not None:  # its rows count as cancelled
        found = []
    inside = sorted((r.email_key, r.seats, r.seq, r.checked_in_at is not None) for r in found if r.status != WAITLISTED)
    queue = [(r.email_key, r.seats, r.seq) for r in sorted(found, key=lambda r: r.rank or 0) if r.status == WAITLISTED]
    assert inside == sorted((g.key, g.seats, g.seq, g.is_here) for g in model.inside), f"{name}: who is inside"
    assert queue == [(g.key, g.seats, g.seq) for g in model.queue], f"{name}: who waits"
    assert session.reserved == sum(seats for _, seats, _, _ in inside), f"{name}: reserved is {session.reserved}"
    assert session.waiting == len(queue), f"{name}: waiting is {session.waiting}"
    assert 0 <= session.reserved <= session.capacity, f"{name}: overbooked"


def _told(model: ModelSession, command: Command, came_as: Mapping[tuple[int, str], int]) -> str:
    """What the second model tells who sent this command; `came_as`: the seq of what made each reservation, by its id and person,
    since a group's have the same."""
    seq, now, asked = command.seq, command.accepted_at, command.arguments
    if command.quarantined or command.kind == REPLAY:
        return model.nothing(seq, QUARANTINED if command.quarantined else "replayed")
    match command.kind:
        case "reserve":
            return model.reserve(seq, now, asked.email_key, asked.seats, command.client)
        case "group":
            return model.group(seq, now, [(person.email_key, person.seats) for person in asked.people])
        case "cancel":
            return model.cancel(seq, now, asked.email_key, asked.seats, None if asked.any_client else command.client)
        case "amend":
            name, comes = (None if value is UNSET else value for value in (asked.name, asked.checked_in))
            return model.amend(seq, asked.email_key, came_as.get((asked.reservation_id, asked.email_key)), name, comes)
        case "configure":
            changes = {new: value for old, new in MODEL_NAMES.items() if (value := getattr(asked, old)) is not UNSET}
            if asked.waitlist_policy is not UNSET:
                changes["passing"] = asked.waitlist_policy == FILL
            return model.configure(seq, changes, asked.on_shrink == DEMOTE)
        case "close":
            return model.close(seq)
        case "reopen":
            return model.reopen(seq)
    assert command.kind == CANCEL_SESSION
    return model.call_off(seq)


def _check_calls(run: Run) -> None:
    """Every 202 has its outcome, but for what a loss took; and only what workers died over is set aside."""
    for call in run.calls:
        if call.receipt is not None:
            known = call.job.id in run.world.store.jobs or call.job.id in run.lost
            assert known, f"job {call.job.id} was accepted, and is lost"
    quarantined = [row for row in run.world.store.jobs.values() if row.verdict.outcome == QUARANTINED]
    assert len(quarantined) * DEATHS_TO_QUARANTINE <= run.deaths, f"set aside after {run.deaths} deaths: {quarantined}"


def check_noticed(run: Run) -> None:
    """A loss that took what was accepted is on record, once something was accepted after it."""
    world = run.world
    noticed = {i.detail["partition"] if i.session_id is None else world.partition(i.session_id) for i in world.store.incidents}
    for call in run.calls:
        lost = call.receipt is not None and call.job.id in run.lost and call.job.id not in world.store.jobs
        assert not lost or world.partition(call.job.session_id) in noticed, f"nobody noticed that job {call.job.id} is lost"


def _check_first_come_first_served(run: Run) -> None:
    """Of two commands of a session, where one was accepted before the other was sent, it has the smaller seq."""
    times = Counter(call.job.id for call in run.calls)
    once = [c for c in run.calls if c.receipt and times[c.job.id] == 1 and c.job.id not in run.ever_lost]
    for first, second in itertools.combinations(once, 2):
        if first.job.session_id == second.job.session_id and first.returned is not None and first.returned < second.sent:
            in_order = _seq_of(run, first) < _seq_of(run, second)
            assert in_order, f"job {first.job.id} was accepted before job {second.job.id} was sent"


def _seq_of(run: Run, call: Call) -> int:
    return run.world.store.jobs[call.job.id].verdict.command.seq


def _check_redis(run: Run) -> None:
    """Redis agrees with the ledger, as far as it has not forgotten."""
    store = run.world.store
    for job_id, row in store.jobs.items():
        if row.verdict.command.kind == REPLAY:
            continue
        job, expected = run.observer.job(job_id), store.job(row)
        if job is None:
            assert run.losses or run.forgot, f"job {job_id} has gone from Redis"
            continue
        assert job.outcome is not None, f"job {job_id} says queued, and is not"
        agrees = (job.outcome, job.seq) == (expected.outcome, expected.seq)
        # Else see ApiServices.as_it_counts; and a loss may take the news that a job's reservation has changed since.
        if job.outcome not in OF_ANOTHER and store.sessions[job.session_id].cancelled_at is None and not run.losses:
            agrees = job == expected
        assert agrees, f"{job} is not {expected}"
    for session_id, session in store.sessions.items():
        head = run.observer.head(session_id)
        if head is None:
            continue
        told, is_told = " ".join(str(head[name]) for name in "vacrwls"), head_text(session)
        assert head["v"] <= session.version, f"session {session_id}: Redis is ahead"
        assert head["v"] < session.version or told == is_told, f"session {session_id}: Redis has {told}, and not {is_told}"
        if not run.losses:
            assert head["v"] == session.version, f"session {session_id}: Redis is behind"
            assert head["q"] == session.last_seq, f"session {session_id}: Redis numbers from {head['q']}, not {session.last_seq}"
