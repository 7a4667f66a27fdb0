"""Postgres, the truth: the sole owner of SQL that writes. One `Batch` is one transaction under its partition's lock.

Every statement is set-wise: a batch costs about eight of them, whether it holds one command or a thousand. Driver errors
are translated (core/pgerrors.py): `Unavailable` when Postgres cannot serve now, anything else stays itself.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import psycopg2
import sqlalchemy
from psycopg2.extensions import parse_dsn
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from core.crashpoints import reach
from core.decide import SETTINGS, Decision, PersonKey
from core.entries import Unreadable
from core.errors import NotMigrated, SettingsConflict
from core.model import (
    CREATE,
    CREATED,
    IDS_PER_POSITION,
    JOB_FORMAT,
    MOVES_MAX,
    SEATS_MAX,
    STRICT,
    Job,
    JobReservation,
    Reservation,
    Session,
    Verdict,
    new_job_id,
)
from core.numbering import Incident, Known
from core.pgerrors import READ_ONLY, translated
from core.waitlist import WaitlistNeed, Window

# What a session has whose creator says nothing of it.
UNLIMITED: dict[str, Any] = {
    "waitlist_capacity": 0,
    "waitlist_policy": STRICT,
    "max_seats_per_reservation": SEATS_MAX,
    "opens_at": None,
    "closes_at": None,
}

LOCK_NAMESPACE = 0x41464F  # 'AFO': keeps our advisory locks apart from other applications' in the same database

_SESSION_SETTINGS = {
    "statement_timeout": "15s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "3s",
    "timezone": "UTC",
}

# A server that is switched off says no goodbye: without these it would be waited for a quarter of an hour.
_NETWORK = {
    "connect_timeout": 3,  # for each host
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds; for what was sent and not acknowledged, where keepalives do not help
}
WHERE_WRITES_GO = "read-write"

SETTING_COLUMNS = (
    "id", "capacity", "reserved", "waitlist_capacity", "waitlist_policy", "max_seats_per_reservation", "opens_at", "closes_at",
    "start_time", "end_time", "closed_at", "cancelled_at",
)  # fmt: skip

CHANGING_COLUMNS = ("id", "name", "status", "seats", "cancelled_at", "rank", "checked_in_at")  # of a reservation

# For the few transactions that may take long: migrations and audits.
NO_LIMIT = "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = %s"

LOCK = "SELECT pg_try_advisory_xact_lock(%s, %s), (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

SESSIONS_FOR_UPDATE = """
SELECT id, capacity, reserved, waiting, last_seq, version,
       (extract(epoch FROM closed_at) * 1000)::bigint, (extract(epoch FROM cancelled_at) * 1000)::bigint,
       waitlist_capacity, waitlist_policy, max_seats_per_reservation,
       (extract(epoch FROM opens_at) * 1000)::bigint, (extract(epoch FROM closes_at) * 1000)::bigint,
       (extract(epoch FROM start_time) * 1000)::bigint, (extract(epoch FROM end_time) * 1000)::bigint
FROM sessions WHERE id = ANY(%s::bigint[]) AND NOT pruning ORDER BY id FOR UPDATE"""

JOB_COLUMNS = """
SELECT j.id::text, j.kind, j.session_id, j.client, j.body_hash, j.seq, (extract(epoch FROM j.accepted_at) * 1000)::bigint,
       j.outcome, (extract(epoch FROM j.applied_at) * 1000)::bigint, j.accepted_seq,
       r.id, CASE WHEN s.cancelled_at IS NULL THEN r.status ELSE 'cancelled' END, r.seats,
       CASE WHEN j.kind = 'group' THEN (
         SELECT jsonb_agg(jsonb_build_array(g.id, CASE WHEN s.cancelled_at IS NULL THEN g.status ELSE 'cancelled' END, g.seats)
                          ORDER BY g.id)
         FROM reservations g
         WHERE g.session_id = j.session_id AND g.seq = j.seq) END
FROM jobs j LEFT JOIN reservations r ON r.id = j.reservation_id JOIN sessions s ON s.id = j.session_id"""

JOBS_BY_ID = JOB_COLUMNS + " WHERE j.id = ANY(%s::uuid[])"

SHOWN_JOBS_BY_ID = JOBS_BY_ID + " AND NOT s.pruning"

JOBS_BY_SEQ = (
    JOB_COLUMNS
    + " JOIN unnest(%s::bigint[], %s::bigint[]) AS w(session_id, seq) ON j.session_id = w.session_id AND j.seq = w.seq"
)

# Of commands that were applied before, but perhaps not published: the jobs whose reservations they changed.
JOBS_TOUCHED_BY = (
    JOB_COLUMNS  # noqa: S608  constants
    + """
WHERE (j.session_id, j.seq) IN (
  SELECT t.session_id, t.seq FROM jobs k, jsonb_array_elements(k.effects) AS e, reservations t
  WHERE k.id = ANY(%s::uuid[]) AND t.id = (e->>1)::bigint)"""
)

RESERVATION_COLUMNS = """
SELECT r.id, r.session_id, r.name, r.email, r.email_key, r.seats, r.status, r.seq, r.client,
       (extract(epoch FROM r.created_at) * 1000)::bigint, (extract(epoch FROM r.cancelled_at) * 1000)::bigint, r.rank,
       (extract(epoch FROM r.checked_in_at) * 1000)::bigint
FROM """

LIVE_RESERVATIONS = (
    RESERVATION_COLUMNS
    + """unnest(%s::bigint[], %s::text[]) AS w(session_id, email_key)
JOIN reservations r ON r.session_id = w.session_id AND r.email_key = w.email_key AND r.status <> 'cancelled'"""
)

# Of each party size the first entries of each waitlist, as many as WaitlistNeed.limit says.
WAITLISTS = (
    RESERVATION_COLUMNS  # noqa: S608  constants
    + """unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(session_id, places, leaving)
CROSS JOIN generate_series(1, %s) AS size
CROSS JOIN LATERAL (
  SELECT * FROM reservations WHERE session_id = w.session_id AND status = 'waitlisted' AND seats = size
  ORDER BY rank LIMIT least(w.places / size, %s) + w.leaving + 1
) r"""
)

# What a shrinking session may have to take back.
NEWEST_CONFIRMED = (
    RESERVATION_COLUMNS
    + """reservations r WHERE r.session_id = %s AND r.status = 'confirmed' ORDER BY r.seq DESC, r.id DESC LIMIT %s"""
)

# After a restore: ids that were given out since must not be given to others, who would then be shown to whoever has them.
POSITIONS_SKIPPED = 10**10
SESSIONS_SKIPPED = 10_000
SKIP_IDS = """
SELECT setval('positions', nextval('positions') + %s),
       setval(own, nextval(own) + %s) FROM pg_get_serial_sequence('sessions', 'id') AS own"""

POSITIONS = "SELECT nextval('positions') FROM generate_series(1, %s)"

UPDATE_RESERVATIONS = """
UPDATE reservations r
SET name = w.name, status = w.status, seats = w.seats, cancelled_at = to_timestamp(w.cancelled_at / 1000.0), rank = w.rank,
  checked_in_at = to_timestamp(w.checked_in_at / 1000.0)
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[])
  AS w(id, name, status, seats, cancelled_at, rank, checked_in_at)
WHERE r.id = w.id"""

COPY_RESERVATIONS = """COPY reservations
(id, session_id, name, email, email_key, seats, status, seq, client, created_at, cancelled_at, rank, checked_in_at)
FROM STDIN"""

COPY_JOBS = """COPY jobs (id, session_id, seq, kind, arguments, client, body_hash, batch, outcome, effects, reservation_id,
position, accepted_seq, replay_of, accepted_at, applied_at) FROM STDIN"""

UPDATE_SESSIONS = """
UPDATE sessions s SET reserved = w.reserved, waiting = w.waiting, last_seq = w.last_seq, version = w.version
FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bigint[], %s::bigint[]) AS w(id, reserved, waiting, last_seq, version)
WHERE s.id = w.id"""

# Apart from the counters, because it is rare. A cancelled session's rows are left to TIDY.
UPDATE_SETTINGS = """
UPDATE sessions s SET capacity = w.capacity, reserved = w.reserved, waitlist_capacity = w.waitlist_capacity,
  waitlist_policy = w.waitlist_policy, max_seats_per_reservation = w.max_seats,
  opens_at = to_timestamp(w.opens_at / 1000.0), closes_at = to_timestamp(w.closes_at / 1000.0),
  start_time = coalesce(to_timestamp(w.start_time / 1000.0), s.start_time),
  end_time = coalesce(to_timestamp(w.end_time / 1000.0), s.end_time),
  closed_at = to_timestamp(w.closed_at / 1000.0), cancelled_at = to_timestamp(w.cancelled_at / 1000.0),
  untidy = s.untidy OR (w.cancelled_at IS NOT NULL AND s.cancelled_at IS NULL)
FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[], %s::text[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[],
  %s::bigint[], %s::bigint[], %s::bigint[]) AS w(id, capacity, reserved, waitlist_capacity, waitlist_policy, max_seats, opens_at,
  closes_at, start_time, end_time, closed_at, cancelled_at)
WHERE s.id = w.id"""

# A cancelled session's reservations count as cancelled from its cancellation on; their rows follow, some at a time.
UNTIDY_SESSION = "SELECT id, cancelled_at FROM sessions WHERE untidy ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"

TIDY = """
UPDATE reservations SET status = 'cancelled', cancelled_at = %s, rank = NULL
WHERE id IN (SELECT id FROM reservations WHERE session_id = %s AND status <> 'cancelled' LIMIT %s)"""

TIDIED = "UPDATE sessions SET untidy = false WHERE id = %s"

INSERT_BATCH = """
INSERT INTO batches (id, client, body_hash, atomic, job_ids) VALUES (%s, %s, %s, %s, %s::uuid[]) ON CONFLICT DO NOTHING"""

BATCH_AS_SENT = "SELECT body_hash, created_at FROM batches WHERE id = %s"

INSERT_INCIDENTS = """
INSERT INTO incidents (kind, partition, session_id, detail)
SELECT * FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::jsonb[])"""

INSERT_UNREADABLE = """
INSERT INTO unreadable (partition, stream_id, reason, content)
SELECT * FROM unnest(%s::int[], %s::text[], %s::text[], %s::bytea[]) ON CONFLICT DO NOTHING"""

INSERT_SESSION = """
INSERT INTO sessions (title, description, location, start_time, end_time, capacity, waitlist_capacity, waitlist_policy,
  max_seats_per_reservation, opens_at, closes_at, public)
VALUES (%(title)s, %(description)s, %(location)s, %(start_time)s, %(end_time)s, %(capacity)s, %(waitlist_capacity)s,
  %(waitlist_policy)s, %(max_seats_per_reservation)s, %(opens_at)s, %(closes_at)s, %(public)s)
RETURNING id"""

INSERT_CREATION = """
INSERT INTO jobs (id, session_id, seq, kind, arguments, client, body_hash, batch, outcome, position, accepted_at, applied_at)
SELECT %s, %s, 0, %s, %s, %s, '', p, %s, p, now(), now() FROM nextval('positions') AS p"""


def create_engine(url: str, pool_size: int, pre_ping: bool = True) -> Engine:
    """One engine a process, made after fork. Connections carry their time-outs; none is opened here.

    `pre_ping` finds out about a connection that was cut before it is used, for a round trip each time. Raises SettingsConflict.
    """
    options = connection_options(url)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(**options),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=pre_ping,
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # in its errors: they name people
    )
    event.listen(engine, "connect", _set_timeouts)
    event.listen(engine, "handle_error", _leave_read_only)
    return engine


def connection_options(url: str) -> dict[str, Any]:
    """What a URL says, as libpq reads it: it may name several hosts, of which the one that takes writes is used.

    Raises SettingsConflict.
    """
    try:
        given = parse_dsn(url)
    except psycopg2.ProgrammingError:  # its words may hold the password
        raise SettingsConflict(
            "The URL of the database cannot be read; it must be like postgresql://user:password@host:port/name."
        ) from None
    options = {**_NETWORK, "application_name": "aforo", **given}
    if "," in options.get("host", ""):
        options.setdefault("target_session_attrs", WHERE_WRITES_GO)
    return options


def _set_timeouts(connection: Any, _record: object) -> None:
    settings = dict(_SESSION_SETTINGS)
    if connection.server_version >= 170000:
        settings["transaction_timeout"] = "30s"
    with connection.cursor() as cursor:
        cursor.execute(";".join(f"SET {name} = '{value}'" for name, value in settings.items()))
    connection.commit()


def _leave_read_only(context: Any) -> None:
    """A connection to a server that only reads (it was demoted, or told so) would stay read-only for ever: make new ones."""
    if getattr(context.original_exception, "pgcode", None) == READ_ONLY:
        context.is_disconnect = True


class Batch:
    """One drain's transaction. Every method is one statement, over all that the batch holds."""

    def __init__(self, connection: Connection, partition: int, applied_at: int) -> None:
        self._connection = connection
        self._partition = partition
        self.applied_at = applied_at

    def lock_sessions(self, ids: Iterable[int]) -> dict[int, Session]:
        """Lock the rows of the sessions concerned, in id order, and read them."""
        rows = self._rows(SESSIONS_FOR_UPDATE, (sorted(set(ids)),))
        return {row[0]: Session(*row) for row in rows}

    def known(self, job_ids: Sequence[str]) -> dict[str, tuple[Job, Known]]:
        """What the ledger already holds of these jobs."""
        return {job.id: (job, known) for job, known in self._jobs(JOBS_BY_ID, (list(job_ids),))}

    def jobs_of(self, reservations: Sequence[Reservation]) -> list[Job]:
        """The jobs that made these reservations, as they read now."""
        wanted = ([r.session_id for r in reservations], [r.seq for r in reservations])
        return [job for job, _ in self._jobs(JOBS_BY_SEQ, wanted)]

    def jobs_touched_by(self, job_ids: Sequence[str]) -> list[Job]:
        """The jobs whose reservations these jobs made or changed, as they read now."""
        return [job for job, _ in self._jobs(JOBS_TOUCHED_BY, (list(job_ids),))]

    def live(self, people: Iterable[PersonKey]) -> dict[PersonKey, Reservation]:
        """The live reservations of these people."""
        keys = list(set(people))
        rows = self._rows(LIVE_RESERVATIONS, ([k[0] for k in keys], [k[1] for k in keys]))
        return {(row[1], row[4]): Reservation(*row) for row in rows}

    def waitlists(self, needs: Iterable[WaitlistNeed]) -> dict[int, Window]:
        """The start of each waitlist, as far as the batch may reach."""
        wanted = {need.session_id: need for need in needs}
        columns = zip(*((n.session_id, n.places, n.leaving) for n in wanted.values()), strict=True)
        rows = self._rows(WAITLISTS, (*map(list, columns), SEATS_MAX, MOVES_MAX))
        found: dict[int, list[Reservation]] = {session_id: [] for session_id in wanted}
        for row in rows:
            found[row[1]].append(Reservation(*row))
        return {session_id: wanted[session_id].window(loaded) for session_id, loaded in found.items()}

    def newest_confirmed(self, session_id: int, limit: int) -> list[Reservation]:
        """The newest reservations that hold places, at most `limit`, the newest first."""
        return [Reservation(*row) for row in self._rows(NEWEST_CONFIRMED, (session_id, limit))]

    def positions(self, count: int) -> list[int]:
        """Fresh positions, growing."""
        return [row[0] for row in self._rows(POSITIONS, (count,))]

    def write(self, decision: Decision) -> None:
        """Write a decision whole: cancels before inserts, so that a place and a person can change hands within a batch."""
        if decision.updated:
            self._connection.exec_driver_sql(UPDATE_RESERVATIONS, _columns(decision.updated, *CHANGING_COLUMNS))
        if decision.inserted:
            self._copy(COPY_RESERVATIONS, (_reservation_line(r) for r in decision.inserted))
        reach("mid_transaction")
        if decision.verdicts:
            batch = decision.verdicts[0].command.position
            applied_at = _time(self.applied_at)
            self._copy(COPY_JOBS, (_job_line(verdict, batch, applied_at) for verdict in decision.verdicts))
        if decision.configured:
            self._connection.exec_driver_sql(UPDATE_SETTINGS, _columns(decision.configured, *SETTING_COLUMNS))
        if decision.sessions:
            sessions = sorted(decision.sessions.values(), key=lambda s: s.id)
            columns = _columns(sessions, "id", "reserved", "waiting", "last_seq", "version")
            self._connection.exec_driver_sql(UPDATE_SESSIONS, columns)

    def record_incidents(self, incidents: Sequence[Incident]) -> None:
        """Write down what only lost data can cause."""
        rows = [(i.kind, self._partition, i.session_id, msgspec.json.encode(i.detail).decode()) for i in incidents]
        self._connection.exec_driver_sql(INSERT_INCIDENTS, tuple(map(list, zip(*rows, strict=True))))

    def set_aside(self, unreadable: Sequence[Unreadable]) -> None:
        """Keep entries that are no commands where an operator can see them."""
        rows = [(self._partition, u.stream_id, u.reason, u.content) for u in unreadable]
        self._connection.exec_driver_sql(INSERT_UNREADABLE, tuple(map(list, zip(*rows, strict=True))))

    def _rows(self, statement: str, parameters: tuple[Any, ...]) -> Sequence[Any]:
        return self._connection.exec_driver_sql(statement, parameters).fetchall()

    def _jobs(self, statement: str, parameters: tuple[Any, ...]) -> list[tuple[Job, Known]]:
        return [job_of(row) for row in self._rows(statement, parameters)]

    def _copy(self, statement: str, lines: Iterable[str]) -> None:
        with self._connection.connection.cursor() as cursor:
            cursor.copy_expert(statement, io.BytesIO("".join(lines).encode()))


def job_of(row: Sequence[Any]) -> tuple[Job, Known]:
    """A row of JOB_COLUMNS as the job shown, and what `number` has to know of it."""
    (job_id, kind, session_id, client, body_hash, seq, accepted_at, outcome, applied_at, accepted_seq, *held, party) = row
    reservation = None if held[0] is None else JobReservation(held[0], session_id, held[1], held[2])
    job = Job(
        JOB_FORMAT,
        job_id,
        kind,
        session_id,
        client,
        body_hash,
        seq,
        accepted_at,
        outcome,
        applied_at,
        accepted_seq is not None,
        reservation,
        tuple([JobReservation(id_, session_id, status, seats) for id_, status, seats in party or ()]),
    )
    return job, Known(job_id, session_id, seq, accepted_seq, accepted_at)


class Store:
    """The writing side of Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def batch(self, partition: int) -> Iterator[Batch | None]:
        """One transaction under the partition's lock; commits at the end, rolls back on any error.

        Yields None when somebody else holds the lock: they will read the mailbox again after letting go. The lock lives
        and dies with the transaction, so that a worker that stalls cannot write late. Raises Unavailable.
        """
        with translated(), self._connection() as connection, connection.begin():
            locked, now = connection.exec_driver_sql(LOCK, (LOCK_NAMESPACE, partition)).one()
            yield Batch(connection, partition, now) if locked else None

    def create_session(self, values: dict[str, Any], client: str) -> int:
        """Insert a session with its seq 0 ledger row. Its id. `values`: what describes it, and all settings."""
        settings = {name: _epoch_ms(values[name]) for name in SETTINGS if values.get(name) is not None}
        values = {"public": False, **UNLIMITED, **values}
        with translated(), self._connection() as connection, connection.begin():
            session_id = connection.exec_driver_sql(INSERT_SESSION, values).scalar_one()
            arguments = msgspec.json.encode(settings).decode()
            job = (new_job_id(session_id), session_id, CREATE, arguments, client, CREATED)
            connection.exec_driver_sql(INSERT_CREATION, job)
            return session_id

    def update_session(self, session_id: int, values: dict[str, Any]) -> bool:
        """Change what only describes a session: title, description, location, public. Whether it exists."""
        columns = ", ".join(f"{name} = %({name})s" for name in sorted(values))
        statement = f"UPDATE sessions SET {columns}, version = version + 1 WHERE id = %(id)s AND NOT pruning"  # noqa: S608  names
        with translated(), self._connection() as connection, connection.begin():
            return connection.exec_driver_sql(statement, {**values, "id": session_id}).rowcount == 1

    def tidy(self, limit: int) -> int:
        """Write `cancelled` into at most `limit` rows of a cancelled session. How many sessions may need more of it."""
        with translated(), self._connection() as connection, connection.begin():
            row = connection.exec_driver_sql(UNTIDY_SESSION).one_or_none()
            if row is None:
                return 0
            if connection.exec_driver_sql(TIDY, (row[1], row[0], limit)).rowcount < limit:
                connection.exec_driver_sql(TIDIED, (row[0],))
            return 1

    def found_batch(
        self, batch_id: str, client: str, fingerprint: str, atomic: bool, job_ids: Sequence[str]
    ) -> tuple[str, datetime]:
        """Write down a batch, unless it is there already. The fingerprint of the one that is there, and since when."""
        with translated(), self._connection() as connection, connection.begin():
            connection.exec_driver_sql(INSERT_BATCH, (batch_id, client, fingerprint, atomic, list(job_ids)))
            fingerprint, created_at = connection.exec_driver_sql(BATCH_AS_SENT, (batch_id,)).one()
            return fingerprint, created_at

    def record_incident(self, incident: Incident, partition: int) -> None:
        """Write down an incident that the API noticed."""
        with translated(), self._connection() as connection, connection.begin():
            Batch(connection, partition, 0).record_incidents([incident])

    def skip_ids(self) -> None:
        """Leave out ids of reservations and sessions, so that none is given out a second time. Only the owner may."""
        with translated(), self._connection() as connection, connection.begin():
            connection.exec_driver_sql(SKIP_IDS, (POSITIONS_SKIPPED * IDS_PER_POSITION, SESSIONS_SKIPPED))

    def deployment(self, partitions: int) -> bytes:
        """The idempotency secret. Raises SettingsConflict when `partitions` is not what the database was set up with."""
        with translated(), self._connection() as connection:
            row = connection.exec_driver_sql("SELECT partitions, idempotency_secret FROM deployment").one_or_none()
        if row is None:
            raise NotMigrated
        if row[0] != partitions:
            raise SettingsConflict(
                f"AFORO_PARTITIONS is {partitions}, but this database was set up with {row[0]}: sessions would change lanes. "
                f"Set AFORO_PARTITIONS={row[0]}."
            )
        return bytes(row[1])

    def dispose(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        connection = self._engine.connect()
        try:
            yield connection
        finally:
            try:
                connection.close()
            except SQLAlchemyError:
                connection.invalidate()


def found_deployment(connection: Connection, partitions: int) -> None:
    """First migration only: fix the number of partitions and make the idempotency secret."""
    statement = "INSERT INTO deployment (singleton, partitions, idempotency_secret) VALUES (true, %s, %s) ON CONFLICT DO NOTHING"
    connection.exec_driver_sql(statement, (partitions, secrets.token_bytes(32)))


def _reservation_line(r: Reservation) -> str:
    fields = (r.id, r.session_id, _text(r.name), _text(r.email), _text(r.email_key), r.seats, r.status, r.seq, _text(r.client))
    times = f"\t{_time(r.created_at)}\t{_time(r.cancelled_at)}\t{_or_null(r.rank)}\t{_time(r.checked_in_at)}\n"
    return "\t".join(map(str, fields)) + times


def _job_line(v: Verdict, batch: int, applied_at: str) -> str:
    c = v.command
    arguments = _text(msgspec.json.encode(c.arguments).decode()) if c.arguments is not None else "{}"
    effects = _text(msgspec.json.encode(v.effects).decode())
    reservation, accepted_seq = _or_null(v.reservation_id), _or_null(c.accepted_seq)
    return (
        f"{c.job_id}\t{c.session_id}\t{c.seq}\t{c.kind}\t{arguments}\t{_text(c.client)}\t{c.body_hash}\t{batch}\t{v.outcome}"
        f"\t{effects}\t{reservation}\t{c.position}\t{accepted_seq}\t{_or_null(c.replay_of)}\t{_time(c.accepted_at)}\t{applied_at}\n"
    )


def _columns(rows: Sequence[Any], *names: str) -> tuple[list[Any], ...]:
    return tuple([getattr(row, name) for row in rows] for name in names)


def _epoch_ms(value: Any) -> Any:
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else value


def _text(value: str) -> str:
    if "\\" in value or "\t" in value or "\n" in value or "\r" in value:
        value = value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return value


def _or_null(value: object) -> str:
    return "\\N" if value is None else str(value)


@lru_cache(maxsize=4096)  # commands come many in a millisecond, and each is written with its time twice
def _time(ms: int | None) -> str:
    return "\\N" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")

