"""What the deployment holds after a run, read by SQL and from Redis as plain values: the checker's other side.

Nothing of core is used to read it, so that a mistake there cannot hide itself here.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tests.support.stack import Deployment

PARTITIONS = 16
HEADS_AT_ONCE = 500

LEDGER = """
SELECT id::text, session_id, seq, kind, arguments, outcome, effects, reservation_id, position, accepted_seq, replay_of::text,
       (extract(epoch FROM accepted_at) * 1000)::bigint, (extract(epoch FROM applied_at) * 1000)::bigint
FROM jobs ORDER BY session_id, seq, position"""

SESSIONS = "SELECT id, capacity, reserved, waiting, last_seq, version, cancelled_at IS NOT NULL FROM sessions"

RESERVATIONS = "SELECT id, session_id, email_key, seats, status, seq, rank FROM reservations ORDER BY session_id, rank, seq, id"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ledger; times in milliseconds."""

    job: str
    session: int
    seq: int
    kind: str
    arguments: dict[str, Any]
    outcome: str
    effects: list[list[Any]]
    reservation: int | None
    position: int
    accepted_seq: int | None
    replay_of: str | None
    accepted_ms: int
    applied_ms: int


@dataclass(frozen=True, slots=True)
class Held:
    """One row of the reservations."""

    id: int
    session: int
    person: str
    seats: int
    status: str
    seq: int
    rank: int | None


@dataclass(frozen=True, slots=True)
class Counters:
    """A session's own row."""

    capacity: int
    reserved: int
    waiting: int
    last_seq: int
    version: int
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """A session's counters in Redis."""

    version: int
    last_seq: int
    capacity: int
    reserved: int
    waiting: int


@dataclass(slots=True)
class Books:
    """Everything, by session. `queued`: jobs that Redis still calls queued."""

    ledger: dict[int, list[Row]] = field(default_factory=dict)
    reservations: dict[int, list[Held]] = field(default_factory=dict)
    sessions: dict[int, Counters] = field(default_factory=dict)
    heads: dict[int, Head] = field(default_factory=dict)
    queued: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """All commands in the ledger; the creations of sessions are none."""
        return [row for rows in self.ledger.values() for row in rows if row.seq > 0]


def read(deployment: Deployment, only: Collection[int] | None = None) -> Books:
    """Read a deployment in which nothing is on its way any more; only these sessions, if any are named."""
    books = Books()
    ledger, reservations = defaultdict(list), defaultdict(list)
    for values in deployment.sql(LEDGER):
        row = Row(*values)
        ledger[row.session].append(row)
    for values in deployment.sql(RESERVATIONS):
        held = Held(*values)
        reservations[held.session].append(held)
    books.sessions = {id_: Counters(*values) for id_, *values in deployment.sql(SESSIONS) if only is None or id_ in only}
    books.ledger = {id_: ledger[id_] for id_ in books.sessions}
    books.reservations = {id_: reservations[id_] for id_ in books.sessions}
    books.incidents = [kind for (kind,) in deployment.sql("SELECT kind FROM incidents ORDER BY id")]
    _read_redis(deployment, books)
    return books


def _read_redis(deployment: Deployment, books: Books) -> None:
    with deployment.redis() as client:
        sessions = list(books.sessions)
        for start in range(0, len(sessions), HEADS_AT_ONCE):
            chunk = sessions[start : start + HEADS_AT_ONCE]
            pipeline = client.pipeline(transaction=False)
            for session in chunk:
                pipeline.get(f"aforo:{{{partition_of(session)}}}:s:{session}")
            for session, found in zip(chunk, pipeline.execute(), strict=True):
                if found is not None:
                    books.heads[session] = Head(*map(int, found.split()[4:9]))
        names = list(client.scan_iter("aforo:*:job:*", count=5000))
        for start in range(0, len(names), HEADS_AT_ONCE):
            pipeline = client.pipeline(transaction=False)
            chunk = names[start : start + HEADS_AT_ONCE]
            for name in chunk:
                pipeline.getrange(name, 0, 0)
            books.queued += [
                name.decode().rpartition(":")[2] for name, tag in zip(chunk, pipeline.execute(), strict=True) if tag == b"q"
            ]


def partition_of(session: int) -> int:
    """The lane of a session."""
    return zlib.crc32(str(session).encode()) % PARTITIONS


def waits(rows: list[Row], moment_ms: float) -> list[float]:
    """Seconds from this moment until each command that was waiting at it was applied."""
    return [(row.applied_ms - moment_ms) / 1000 for row in rows if row.accepted_ms <= moment_ms < row.applied_ms]
