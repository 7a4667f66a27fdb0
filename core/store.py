"""Postgres, the truth: connections to it, and what is written beside the batches of core/transaction.py.

Driver errors are translated (core/pgerrors.py): `Unavailable` when Postgres cannot serve now, anything else stays itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import psycopg2
import sqlalchemy
from psycopg2.extensions import parse_dsn
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from core.decide import SETTINGS
from core.errors import NotMigrated, SettingsConflict
from core.model import (
    CREATE,
    CREATED,
    IDS_PER_POSITION,
    SEATS_MAX,
    STRICT,
    Command,
    new_job_id,
)
from core.numbering import Incident
from core.pgerrors import READ_ONLY, translated
from core.rows import array, incident_columns, texts
from core.transaction import INSERT_INCIDENTS, Batch, opened, plain_cursor

# What a session has whose creator says nothing of it.
UNLIMITED: dict[str, Any] = {
    "waitlist_capacity": 0,
    "waitlist_policy": STRICT,
    "max_seats_per_reservation": SEATS_MAX,
    "opens_at": None,
    "closes_at": None,
}

_SESSION_SETTINGS = {
    "default_transaction_isolation": "read committed",  # said here once, it costs no round trip later
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

# For the few transactions that may take long: migrations and audits.
NO_LIMIT = "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = %s"

# After a restore: ids that were given out since must not be given to others, who would then be shown to whoever has them.
POSITIONS_SKIPPED = 10**10
SESSIONS_SKIPPED = 10_000
SKIP_IDS = """
SELECT setval('positions', nextval('positions') + %s),
       setval(own, nextval(own) + %s) FROM pg_get_serial_sequence('sessions', 'id') AS own"""

# A cancelled session's reservations count as cancelled from its cancellation on; their rows follow, some at a time.
UNTIDY_SESSION = "SELECT id, cancelled_at FROM sessions WHERE untidy ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"

TIDY = """
UPDATE reservations SET status = 'cancelled', cancelled_at = %s, rank = NULL
WHERE id IN (SELECT id FROM reservations WHERE session_id = %s AND status <> 'cancelled' LIMIT %s)"""

TIDIED = "UPDATE sessions SET untidy = false WHERE id = %s"

# Both in one round trip and one transaction. The second sees what others wrote meanwhile, which the first left alone.
BATCHES_AS_SENT = """
INSERT INTO batches (id, client, body_hash, atomic, job_ids)
SELECT id, client, body_hash, atomic, job_ids::uuid[]
FROM unnest(%(ids)s::uuid[], %(clients)s::text[], %(hashes)s::text[], %(atomic)s::bool[], %(job_ids)s::text[])
  AS w(id, client, body_hash, atomic, job_ids)
ON CONFLICT DO NOTHING;
SELECT id::text, body_hash, created_at FROM batches WHERE id = ANY(%(ids)s::uuid[])"""

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


class SentBatch(NamedTuple):
    """A batch as it is kept: the jobs of its commands in their order."""

    id: str
    client: str
    fingerprint: str
    atomic: bool
    job_ids: Sequence[str]


class Store:
    """The writing side of Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def batch(self, *partitions: int, ahead: Sequence[Command] = ()) -> Iterator[Batch | None]:
        """One transaction under the locks of partitions; commits at the end, rolls back on any error.

        It goes without those that somebody else has locked, who will read the mailbox again after letting go; None if that leaves
        nothing. The locks live and die with the transaction, so that a worker that stalls cannot write late. What the commands
        `ahead` need is loaded in the same round trip, into the batch's `ahead`, if it has all the locks. Raises Unavailable.
        """
        with translated(), opened(self._engine, partitions, ahead) as batch:
            yield batch

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

    def found_batches(self, sent: Sequence[SentBatch]) -> list[tuple[str, datetime]]:
        """Write down batches, each unless it is there already. The fingerprint of the one that is there, and since when."""
        rows = sorted(sent)  # in one order, so that nobody who writes the same waits for who waits for them
        values = {
            "ids": array([row.id for row in rows]),
            "clients": texts([row.client for row in rows]),
            "hashes": texts([row.fingerprint for row in rows]),
            "atomic": array([row.atomic for row in rows]),
            "job_ids": texts([array(row.job_ids) for row in rows]),
        }
        with translated(), plain_cursor(self._engine) as cursor:
            cursor.execute(BATCHES_AS_SENT, values)
            found = {batch_id: (fingerprint, created_at) for batch_id, fingerprint, created_at in cursor.fetchall()}
        return [found[row.id] for row in sent]

    def record_incident(self, incident: Incident, partition: int) -> None:
        """Write down an incident that the API noticed."""
        with translated(), self._connection() as connection, connection.begin():
            connection.exec_driver_sql(INSERT_INCIDENTS, incident_columns([incident], partition))

    def skip_ids(self) -> None:
        """Leave out ids of reservations and sessions, so that none is given out a second time. Only the owner may."""
        with translated(), self._connection() as connection, connection.begin():
            connection.exec_driver_sql(SKIP_IDS, (POSITIONS_SKIPPED * IDS_PER_POSITION, SESSIONS_SKIPPED))

    def deployment(self, partitions: int | None) -> bytes:
        """The idempotency secret. Raises SettingsConflict when `partitions` is not what the database was set up with. None:
        nobody says how many; after the first `aforo repartition` it does not count either."""
        with translated(), self._connection() as connection:
            row = connection.exec_driver_sql("SELECT partitions, idempotency_secret, epoch FROM deployment").one_or_none()
        if row is None:
            raise NotMigrated
        if partitions is not None and row[0] != partitions and row[2] == 1:
            raise SettingsConflict(
                f"AFORO_PARTITIONS is {partitions}, but this database was set up with {row[0]}: sessions would change lanes. "
                f"Set AFORO_PARTITIONS={row[0]}, or leave it out."
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


def _epoch_ms(value: Any) -> Any:
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else value
