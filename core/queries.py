"""The reading side of Postgres: pages of sessions and reservations, single jobs. Every function is one read-only snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, and_, cast, extract, func, select, tuple_
from sqlalchemy.sql import ColumnElement

from core.model import CANCELLED, QUARANTINED, Frozen, Job, Reservation, Session
from core.store import JOBS_BY_ID, job_of, translated
from core.tables import jobs as j
from core.tables import reservations as r
from core.tables import sessions as s
from core.tables import unreadable as u

INLINE_RESERVATIONS = 100


class SessionView(Frozen):
    """A session as readers see it. Times are aware datetimes."""

    id: int
    title: str
    description: str
    location: str
    start_time: datetime
    end_time: datetime
    capacity: int
    reserved: int
    waiting: int
    closed_at: datetime | None
    cancelled_at: datetime | None
    version: int
    last_seq: int
    created_at: datetime

    @property
    def available_slots(self) -> int:
        """Places that are free."""
        return self.capacity - self.reserved

    def head(self) -> Session:
        """The counters, for Redis."""
        return Session(
            id=self.id,
            capacity=self.capacity,
            reserved=self.reserved,
            waiting=self.waiting,
            last_seq=self.last_seq,
            version=self.version,
        )


class ReservationView(Frozen):
    """A reservation as readers see it."""

    id: int
    session: int
    name: str
    email: str
    seats: int
    status: str
    seq: int
    created_at: datetime
    cancelled_at: datetime | None


class QuarantinedView(Frozen):
    """A command that was set aside, as an operator looks at it."""

    job_id: str
    session_id: int
    seq: int
    kind: str
    arguments: dict[str, Any]
    accepted_at: datetime
    applied_at: datetime


class UnreadableView(Frozen):
    """A mailbox entry that was no command."""

    partition: int
    stream_id: str
    reason: str
    content: bytes
    noticed_at: datetime


class LedgerRow(Frozen):
    """A ledger row as the audit replays it. Times are milliseconds since the epoch."""

    job_id: str
    session_id: int
    seq: int
    kind: str
    arguments: dict[str, Any]
    client: str
    body_hash: str
    outcome: str
    effects: list[Any]
    reservation_id: int | None
    position: int
    accepted_seq: int | None
    accepted_at: int


_SESSION = [s.c[name] for name in SessionView.__struct_fields__]
_RESERVATION = [
    r.c.id, r.c.session_id, r.c.name, r.c.email, r.c.seats, r.c.status, r.c.seq, r.c.created_at, r.c.cancelled_at,
]  # fmt: skip

_QUARANTINED = [j.c.id, j.c.session_id, j.c.seq, j.c.kind, j.c.arguments, j.c.accepted_at, j.c.applied_at]


def _ms(column: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(extract("epoch", column) * 1000, BigInteger)


_LEDGER = [
    j.c.id, j.c.session_id, j.c.seq, j.c.kind, j.c.arguments, j.c.client, j.c.body_hash, j.c.outcome, j.c.effects,
    j.c.reservation_id, j.c.position, j.c.accepted_seq, _ms(j.c.accepted_at),
]  # fmt: skip
_WHOLE_RESERVATION = [
    r.c.id, r.c.session_id, r.c.name, r.c.email, r.c.email_key, r.c.seats, r.c.status, r.c.seq, r.c.client,
    _ms(r.c.created_at), _ms(r.c.cancelled_at),
]  # fmt: skip

STREAM_ROWS = 2000
NO_LIMIT = "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = %s"


class Queries:
    """Reads. Blocking: the API calls them in its bounded executor. Raises Unavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def session(self, session_id: int) -> SessionView | None:
        """One session, without its reservations."""
        with self._snapshot() as connection:
            return _one_session(connection, session_id)

    def session_with_reservations(self, session_id: int) -> tuple[SessionView, list[ReservationView]] | None:
        """One session and the first of its live reservations (one more than are shown, to tell whether there are more)."""
        with self._snapshot() as connection:
            session = _one_session(connection, session_id)
            if session is None:
                return None
            return session, _reservations(connection, session_id, None, INLINE_RESERVATIONS + 1, live_only=True)

    def sessions(self, open_only: bool, page: int, page_size: int) -> tuple[int, list[SessionView]]:
        """How many sessions there are, and one page of them by start time. Pages count from 1."""
        condition = _open() if open_only else None
        with self._snapshot() as connection:
            count = select(func.count()).select_from(s)
            rows = select(*_SESSION).order_by(s.c.start_time, s.c.id).limit(page_size).offset((page - 1) * page_size)
            if condition is not None:
                count, rows = count.where(condition), rows.where(condition)
            found = [SessionView(*row) for row in connection.execute(rows)]
            return connection.execute(count).scalar_one(), found

    def reservations(
        self, session_id: int, after: tuple[int, int] | None, limit: int, live_only: bool
    ) -> list[ReservationView] | None:
        """Reservations by (seq, id), after that of a cursor. None when there is no such session."""
        with self._snapshot() as connection:
            if connection.execute(select(s.c.id).where(s.c.id == session_id)).one_or_none() is None:
                return None
            return _reservations(connection, session_id, after, limit, live_only)

    def job(self, job_id: str) -> Job | None:
        """One job, from the ledger."""
        with self._snapshot() as connection:
            rows = connection.exec_driver_sql(JOBS_BY_ID, ([job_id],)).fetchall()
        return job_of(rows[0])[0] if rows else None

    def quarantined(self, limit: int) -> list[QuarantinedView]:
        """The newest commands that were set aside."""
        with self._snapshot() as connection:
            rows = select(*_QUARANTINED).where(j.c.outcome == QUARANTINED).order_by(j.c.position.desc()).limit(limit)
            return [QuarantinedView(str(row[0]), *row[1:]) for row in connection.execute(rows)]

    def quarantined_job(self, job_id: str) -> QuarantinedView | None:
        """One command that was set aside."""
        with self._snapshot() as connection:
            rows = select(*_QUARANTINED).where(j.c.outcome == QUARANTINED, j.c.id == job_id)
            row = connection.execute(rows).one_or_none()
            return None if row is None else QuarantinedView(str(row[0]), *row[1:])

    def unreadable(self, limit: int) -> list[UnreadableView]:
        """The newest mailbox entries that were no commands."""
        columns = [u.c[name] for name in UnreadableView.__struct_fields__]
        with self._snapshot() as connection:
            rows = connection.execute(select(*columns).order_by(u.c.noticed_at.desc()).limit(limit))
            return [UnreadableView(row[0], row[1], row[2], bytes(row[3]), row[4]) for row in rows]

    @contextmanager
    def audit(self) -> Iterator[Audit]:
        """The whole database in one snapshot, as streams; without time-outs, since it may take long."""
        with self._snapshot() as connection:
            for limit in ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"):
                connection.exec_driver_sql(NO_LIMIT, (limit,))
            yield Audit(connection)

    def partitions(self) -> int:
        """The number of partitions this database was set up with."""
        with self._snapshot() as connection:
            return connection.exec_driver_sql("SELECT partitions FROM deployment").scalar_one()

    def migration(self) -> str | None:
        """The revision the database stands at."""
        with self._snapshot() as connection:
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        with translated(), self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield connection


class Audit:
    """Streams over one snapshot, each ordered by session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def counts(self) -> tuple[int, int, int]:
        """How many sessions, ledger rows and reservations there are."""
        return tuple(self._connection.execute(select(func.count()).select_from(t)).scalar_one() for t in (s, j, r))  # type: ignore[return-value]

    def sessions(self) -> Iterator[SessionView]:
        """Every session, by id."""
        return (SessionView(*row) for row in self._stream(select(*_SESSION).order_by(s.c.id)))

    def ledger(self) -> Iterator[LedgerRow]:
        """Every ledger row, by session and seq."""
        rows = select(*_LEDGER).order_by(j.c.session_id, j.c.seq)
        return (LedgerRow(str(row[0]), *row[1:]) for row in self._stream(rows))

    def reservations(self, session_id: int | None = None) -> Iterator[Reservation]:
        """Every reservation, by session and seq; or those of one session."""
        rows = select(*_WHOLE_RESERVATION).order_by(r.c.session_id, r.c.seq, r.c.id)
        if session_id is not None:
            rows = rows.where(r.c.session_id == session_id)
        return (Reservation(*row) for row in self._stream(rows))

    def _stream(self, rows: Any) -> Iterator[Any]:
        return iter(self._connection.execution_options(stream_results=True, yield_per=STREAM_ROWS).execute(rows))


def _open() -> ColumnElement[bool]:
    return and_(s.c.end_time > func.now(), s.c.closed_at.is_(None), s.c.cancelled_at.is_(None), s.c.reserved < s.c.capacity)


def _one_session(connection: Connection, session_id: int) -> SessionView | None:
    row = connection.execute(select(*_SESSION).where(s.c.id == session_id)).one_or_none()
    return None if row is None else SessionView(*row)


def _reservations(
    connection: Connection, session_id: int, after: tuple[int, int] | None, limit: int, live_only: bool
) -> list[ReservationView]:
    rows = select(*_RESERVATION).where(r.c.session_id == session_id).order_by(r.c.seq, r.c.id).limit(limit)
    if after is not None:
        rows = rows.where(tuple_(r.c.seq, r.c.id) > after)
    if live_only:
        rows = rows.where(r.c.status != CANCELLED)
    return [ReservationView(*row) for row in connection.execute(rows)]


