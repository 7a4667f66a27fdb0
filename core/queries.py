"""The reading side of Postgres: pages of sessions and reservations, single jobs. Every function is one read-only snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, Engine, cast, extract, func, select, tuple_
from sqlalchemy.sql import ColumnElement

from core.finding import DIFFERING_TOTALS, PRESENT, SessionSearch, count_of, page_of
from core.model import CANCELLED, QUARANTINED, Frozen, Job, Reservation, Session
from core.pgerrors import translated
from core.store import NO_LIMIT
from core.tables import batches as b
from core.tables import jobs as j
from core.tables import reservations as r
from core.tables import sessions as s
from core.tables import unreadable as u
from core.transaction import SHOWN_JOBS_BY_ID, job_of

INLINE_RESERVATIONS = 100
RECHECKED_SECONDS = 86_400  # after its end a session is asked for a while longer

_PRUNING = select(s.c.id).where(s.c.pruning)


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
    waitlist_capacity: int
    waitlist_policy: str
    max_seats_per_reservation: int
    opens_at: datetime | None
    closes_at: datetime | None
    closed_at: datetime | None
    cancelled_at: datetime | None
    version: int
    last_seq: int
    created_at: datetime
    public: bool

    @property
    def available_slots(self) -> int:
        """Places that are free."""
        return self.capacity - self.reserved

    def decided(self) -> Session:
        """What of it is decided by commands: counters, settings, state."""
        return Session(
            id=self.id,
            capacity=self.capacity,
            reserved=self.reserved,
            waiting=self.waiting,
            last_seq=self.last_seq,
            version=self.version,
            closed_at=_epoch_ms(self.closed_at),
            cancelled_at=_epoch_ms(self.cancelled_at),
            waitlist_capacity=self.waitlist_capacity,
            waitlist_policy=self.waitlist_policy,
            max_seats_per_reservation=self.max_seats_per_reservation,
            opens_at=_epoch_ms(self.opens_at),
            closes_at=_epoch_ms(self.closes_at),
            start_time=_epoch_ms(self.start_time),
            end_time=_epoch_ms(self.end_time),
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
    checked_in_at: datetime | None


class OwnReservation(Frozen):
    """One reservation with its session, as its holder sees it; `position`: its place in the waitlist, from 1."""

    reservation: ReservationView
    session: SessionView
    position: int | None
    email_key: str


class QuarantinedView(Frozen):
    """A command that was set aside, as an operator looks at it."""

    job_id: str
    session_id: int
    seq: int
    kind: str
    client: str
    arguments: dict[str, Any]
    accepted_at: datetime
    applied_at: datetime


class BatchView(Frozen):
    """A batch as it was sent: the jobs of its commands, in their order."""

    id: str
    client: str
    body_hash: str
    atomic: bool
    job_ids: tuple[str, ...]
    created_at: datetime


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
    r.c.checked_in_at,
]  # fmt: skip

_QUARANTINED = [j.c.id, j.c.session_id, j.c.seq, j.c.kind, j.c.client, j.c.arguments, j.c.accepted_at, j.c.applied_at]


def _epoch_ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _ms(column: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(extract("epoch", column) * 1000, BigInteger)


_LEDGER = [
    j.c.id, j.c.session_id, j.c.seq, j.c.kind, j.c.arguments, j.c.client, j.c.body_hash, j.c.outcome, j.c.effects,
    j.c.reservation_id, j.c.position, j.c.accepted_seq, _ms(j.c.accepted_at),
]  # fmt: skip
_WHOLE_RESERVATION = [
    r.c.id, r.c.session_id, r.c.name, r.c.email, r.c.email_key, r.c.seats, r.c.status, r.c.seq, r.c.client,
    _ms(r.c.created_at), _ms(r.c.cancelled_at), r.c.rank, _ms(r.c.checked_in_at),
]  # fmt: skip

STREAM_ROWS = 2000


class Queries:
    """Reads. Blocking: the API calls them in its bounded executor. Raises Unavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def session(self, session_id: int) -> SessionView | None:
        """One session, without its reservations."""
        with self._snapshot() as connection:
            return _one_session(connection, session_id)

    def known_sessions(self, session_ids: Sequence[int]) -> tuple[dict[int, SessionView], int]:
        """Those of these sessions that there are, and the highest id that any session has."""
        with self._snapshot() as connection:
            rows = connection.execute(select(*_SESSION).where(s.c.id.in_(session_ids), PRESENT))
            found = {view.id: view for view in (SessionView(*row) for row in rows)}
            return found, connection.execute(select(func.coalesce(func.max(s.c.id), 0))).scalar_one()

    def sessions_with_reservations(self, session_ids: Sequence[int]) -> dict[int, tuple[SessionView, list[ReservationView]]]:
        """Those of these sessions that there are, each with the first of its live reservations (one more than are shown, to tell
        whether there are more)."""
        with self._snapshot() as connection:
            rows = connection.execute(select(*_SESSION).where(s.c.id.in_(session_ids), PRESENT))
            found: dict[int, tuple[SessionView, list[ReservationView]]] = {row[0]: (SessionView(*row), []) for row in rows}
            shown = [view.id for view, _ in found.values() if view.cancelled_at is None]
            if shown:
                for row in connection.exec_driver_sql(FIRST_RESERVATIONS, (shown, INLINE_RESERVATIONS + 1)):
                    found[row[1]][1].append(ReservationView(*row))
            return found

    def sessions(self, wanted: SessionSearch, limit: int, offset: int = 0) -> tuple[int, list[SessionView], float | None]:
        """How many sessions fit the search, and `limit` of them in its order, from `offset` or from its cursor on; and how many
        seconds it takes until time by itself changes that (None: it never does)."""
        with self._snapshot() as connection:
            found = [SessionView(*row) for row in connection.execute(page_of(wanted, _SESSION, limit, offset))]
            count, seconds = connection.execute(count_of(wanted)).one()
            return count, found, None if seconds is None else float(seconds)

    def plan(self, wanted: SessionSearch, limit: int) -> str:
        """How Postgres would find the first page of a search."""
        return self._explained(page_of(wanted, _SESSION, limit, 0))

    def counting_plan(self, wanted: SessionSearch) -> str:
        """How it would count all that fit."""
        return self._explained(count_of(wanted))

    def _explained(self, wanted: Any) -> str:
        statement = wanted.compile(self._engine, compile_kwargs={"literal_binds": True})
        with self._snapshot() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN {str(statement).replace('%', '%%')}")
            return "\n".join(row[0] for row in rows)

    def reservations(
        self, session_id: int, after: tuple[int, int] | None, limit: int, live_only: bool
    ) -> tuple[SessionView, list[ReservationView]] | None:
        """A session and its reservations by (seq, id), after that of a cursor. None when there is no such session."""
        with self._snapshot() as connection:
            session = _one_session(connection, session_id)
            if session is None:
                return None
            return session, _reservations(connection, session, after, limit, live_only)

    def job(self, job_id: str) -> Job | None:
        """One job, from the ledger."""
        with self._snapshot() as connection:
            rows = connection.exec_driver_sql(SHOWN_JOBS_BY_ID, ([job_id],)).fetchall()
        return job_of(rows[0])[0] if rows else None

    def jobs(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Jobs, from the ledger, by id; those it does not have are missing."""
        with self._snapshot() as connection:
            rows = connection.exec_driver_sql(SHOWN_JOBS_BY_ID, (list(job_ids),)).fetchall()
        return {job.id: job for job, _ in map(job_of, rows)}

    def versions(self, after: int, limit: int) -> list[tuple[int, int]]:
        """Ids and versions of sessions that are not long over, by id, from the one after this on."""
        with self._snapshot() as connection:
            lately = s.c.end_time > func.now() - timedelta(seconds=RECHECKED_SECONDS)
            rows = select(s.c.id, s.c.version).where(s.c.id > after, lately).order_by(s.c.id).limit(limit)
            return [(row[0], row[1]) for row in connection.execute(rows)]

    def decided(self, session_id: int) -> Session | None:
        """What of one session is decided by commands."""
        view = self.session(session_id)
        return None if view is None else view.decided()

    def first_accepted_ms(self, session_id: int) -> int:
        """When a session's first command was accepted; 0 if none was applied yet."""
        with self._snapshot() as connection:
            first = select(_ms(j.c.accepted_at)).where(j.c.session_id == session_id, j.c.seq > 0).order_by(j.c.seq).limit(1)
            return connection.execute(first).scalar_one_or_none() or 0

    def reservations_of(
        self, email_key: str, session_id: int | None, before: int | None, limit: int, live_only: bool
    ) -> list[tuple[ReservationView, SessionView]]:
        """One person's reservations with their sessions, the newest first, from before that of a cursor; in one session, if one
        is named."""
        rows = select(*_RESERVATION, *_SESSION).join_from(r, s, s.c.id == r.c.session_id)
        rows = rows.where(r.c.email_key == email_key, PRESENT).order_by(r.c.id.desc()).limit(limit)
        if session_id is not None:
            rows = rows.where(r.c.session_id == session_id)
        if before is not None:
            rows = rows.where(r.c.id < before)
        if live_only:
            rows = rows.where(r.c.status != CANCELLED, s.c.cancelled_at.is_(None))
        width = len(_RESERVATION)
        with self._snapshot() as connection:
            found = [(ReservationView(*row[:width]), SessionView(*row[width:])) for row in connection.execute(rows)]
        return [(_as_it_counts(reservation, session), session) for reservation, session in found]

    def own_reservation(self, reservation_id: int) -> OwnReservation | None:
        """One reservation as its holder sees it."""
        with self._snapshot() as connection:
            row = connection.execute(select(*_RESERVATION, r.c.email_key).where(r.c.id == reservation_id)).one_or_none()
            if row is None:
                return None
            reservation = ReservationView(*row[:-1])
            session = _one_session(connection, reservation.session)
            if session is None:
                return None
            position = _positions(connection, [reservation_id]).get(reservation_id)
            return OwnReservation(_as_it_counts(reservation, session), session, position, row.email_key)

    def positions(self, reservation_ids: Sequence[int]) -> dict[int, int]:
        """The places of these reservations in their waitlists, from 1; of those that wait."""
        with self._snapshot() as connection:
            return _positions(connection, reservation_ids)

    def batches(self, batch_ids: Sequence[str]) -> dict[str, BatchView]:
        """Those of these batches that there are, by id, with their jobs."""
        with self._snapshot() as connection:
            columns = [b.c[name] for name in BatchView.__struct_fields__]
            rows = connection.execute(select(*columns).where(b.c.id.in_(batch_ids)))
            views = [BatchView(str(row[0]), *row[1:4], tuple(map(str, row[4])), row[5]) for row in rows]
        return {view.id: view for view in views}

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
        """The number of partitions there are."""
        with self._snapshot() as connection:
            return connection.exec_driver_sql("SELECT partitions FROM deployment").scalar_one()

    def session_ids(self, after: int, limit: int) -> list[int]:
        """The ids of all sessions, also of those that are being removed, from the one after this on."""
        with self._snapshot() as connection:
            rows = select(s.c.id).where(s.c.id > after).order_by(s.c.id).limit(limit)
            return list(connection.execute(rows).scalars())

    def migration(self) -> str | None:
        """The revision the database stands at."""
        with self._snapshot() as connection:
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        with translated(), self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield connection


class Audit:
    """Streams over one snapshot, each ordered by session; without the sessions that are being removed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def counts(self) -> tuple[int, int, int]:
        """How many sessions, ledger rows and reservations there are."""
        return tuple(self._connection.execute(select(func.count()).select_from(t)).scalar_one() for t in (s, j, r))  # type: ignore[return-value]

    def pruning(self) -> int:
        """How many sessions are being removed."""
        return self._connection.execute(select(func.count()).select_from(_PRUNING.subquery())).scalar_one()

    def differing_totals(self) -> list[tuple[str, int, int]]:
        """Hours with the total that is kept and the one that there is, where they differ."""
        return [tuple(row) for row in self._connection.exec_driver_sql(DIFFERING_TOTALS)]  # type: ignore[misc]

    def sessions(self) -> Iterator[SessionView]:
        """Every session, by id."""
        return (SessionView(*row) for row in self._stream(select(*_SESSION).where(PRESENT).order_by(s.c.id)))

    def ledger(self) -> Iterator[LedgerRow]:
        """Every ledger row, by session and seq."""
        rows = select(*_LEDGER).where(j.c.session_id.not_in(_PRUNING)).order_by(j.c.session_id, j.c.seq)
        return (LedgerRow(str(row[0]), *row[1:]) for row in self._stream(rows))

    def reservations(self, session_id: int | None = None) -> Iterator[Reservation]:
        """Every reservation, by session and seq; or those of one session."""
        rows = select(*_WHOLE_RESERVATION).where(r.c.session_id.not_in(_PRUNING)).order_by(r.c.session_id, r.c.seq, r.c.id)
        if session_id is not None:
            rows = rows.where(r.c.session_id == session_id)
        return (Reservation(*row) for row in self._stream(rows))

    def _stream(self, rows: Any) -> Iterator[Any]:
        return iter(self._connection.execution_options(stream_results=True, yield_per=STREAM_ROWS).execute(rows))


FIRST_RESERVATIONS = f"""
SELECT r.* FROM unnest(%s::bigint[]) AS wanted(id) CROSS JOIN LATERAL (
    SELECT {", ".join([column.name for column in _RESERVATION])} FROM reservations
    WHERE session_id = wanted.id AND status <> 'cancelled' ORDER BY seq, id LIMIT %s) AS r"""  # noqa: S608  names

POSITIONS_IN_WAITLIST = """
SELECT r.id, (SELECT count(*) FROM reservations o
              WHERE o.session_id = r.session_id AND o.status = 'waitlisted' AND o.rank <= r.rank)
FROM reservations r JOIN sessions s ON s.id = r.session_id
WHERE r.id = ANY(%s::bigint[]) AND r.status = 'waitlisted' AND s.cancelled_at IS NULL"""


def _positions(connection: Connection, reservation_ids: Sequence[int]) -> dict[int, int]:
    rows = connection.exec_driver_sql(POSITIONS_IN_WAITLIST, (list(reservation_ids),))
    return {row[0]: row[1] for row in rows}


def _as_it_counts(reservation: ReservationView, session: SessionView) -> ReservationView:
    """The reservations of a cancelled session are cancelled with it, whether or not their rows say so yet."""
    if session.cancelled_at is None or reservation.status == CANCELLED:
        return reservation
    return msgspec.structs.replace(reservation, status=CANCELLED, cancelled_at=session.cancelled_at)


def _one_session(connection: Connection, session_id: int) -> SessionView | None:
    row = connection.execute(select(*_SESSION).where(s.c.id == session_id, PRESENT)).one_or_none()
    return None if row is None else SessionView(*row)


def _reservations(
    connection: Connection, session: SessionView, after: tuple[int, int] | None, limit: int, live_only: bool
) -> list[ReservationView]:
    if live_only and session.cancelled_at is not None:
        return []
    rows = select(*_RESERVATION).where(r.c.session_id == session.id).order_by(r.c.seq, r.c.id).limit(limit)
    if after is not None:
        rows = rows.where(tuple_(r.c.seq, r.c.id) > after)
    if live_only:
        rows = rows.where(r.c.status != CANCELLED)
    return [_as_it_counts(ReservationView(*row), session) for row in connection.execute(rows)]
