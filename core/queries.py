"""The reading side of Postgres: pages of sessions and reservations, single jobs. Every function is one read-only snapshot."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, and_, func, select, tuple_
from sqlalchemy.sql import ColumnElement

from core.model import CANCELLED, Frozen, Job, Session
from core.store import JOBS_BY_ID, job_of, translated
from core.tables import reservations as r
from core.tables import sessions as s

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


_SESSION = [s.c[name] for name in SessionView.__struct_fields__]
_RESERVATION = [
    r.c.id, r.c.session_id, r.c.name, r.c.email, r.c.seats, r.c.status, r.c.seq, r.c.created_at, r.c.cancelled_at,
]  # fmt: skip


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

    def migration(self) -> str | None:
        """The revision the database stands at."""
        with self._snapshot() as connection:
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()

    @contextmanager
    def _snapshot(self) -> Any:
        with translated(), self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield connection


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


