"""Postgres, for erasing: a person's name and address, or whole sessions that are over. The one place where the ledger changes.

A session's rows of one person change in one transaction, under the partition's lock and the session's, so that no batch is
half old and the ledger replays at every moment. Removing a session takes many small transactions; it is marked before the
first of them, and from then on nobody sees it. All of it runs as the owner of the tables.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection, Engine

from core.crashpoints import reach
from core.errors import NotOwner, StillSeen
from core.model import FORGOTTEN, Job, forgotten_key
from core.pgerrors import translated
from core.store import NO_LIMIT
from core.transaction import JOBS_BY_ID, LOCK_NAMESPACE, job_of

LOCK_WAIT = "30s"  # a partition's drain lets go after each batch; a worker that hangs, after 3 s
HORIZON_SECONDS = 20.0
HORIZON_LOOK_SECONDS = 0.5

ROWS_AT_ONCE = 500

# The smallest first: as long as an older transaction sees the old rows, it alone is tried again.
TABLES = ("incidents", "unreadable", "sessions", "batches", "reservations", "jobs")
REWRITTEN = ("reservations", "jobs", "unreadable")  # those that hold names

UNLIMITED = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = %s"

MAY_ERASE = "SELECT has_table_privilege('jobs', 'UPDATE') AND has_table_privilege('jobs', 'DELETE')"

WAIT_FOR_LOCK = "SELECT pg_advisory_xact_lock(%s, %s)"

# Who a ledger row names: one person, or several in a group.
_NAMES = """(arguments->>'email_key' = %(key)s
  OR arguments->'people' @> jsonb_build_array(jsonb_build_object('email_key', %(key)s)))"""

SESSIONS_NAMING = f"""
SELECT session_id FROM reservations WHERE email_key = %(key)s
UNION SELECT session_id FROM jobs WHERE {_NAMES} ORDER BY 1"""  # noqa: S608  constants

LIVE = """
SELECT r.id, r.session_id, r.email, r.email_key, s.start_time <= now()
FROM unnest(%(sessions)s::bigint[]) AS w(id) JOIN sessions s ON s.id = w.id
JOIN reservations r ON r.session_id = s.id AND r.email_key = %(key)s AND r.status <> 'cancelled'
WHERE s.cancelled_at IS NULL AND s.end_time > now() ORDER BY r.session_id"""

LOCK_SESSION = "SELECT id FROM sessions WHERE id = %s FOR UPDATE"

LEDGER_ROWS = f"SELECT id::text, seq FROM jobs WHERE session_id = %(session)s AND {_NAMES} ORDER BY seq"  # noqa: S608  constants

FORGET_RESERVATIONS = """
UPDATE reservations SET name = %(name)s, email = %(new)s, email_key = %(new)s
WHERE session_id = %(session)s AND email_key = %(key)s RETURNING seq"""

# Of a group only that person; the others stay as they are, in their order.
FORGET_JOBS = """
UPDATE jobs SET body_hash = '', arguments = CASE
  WHEN kind = 'group' THEN jsonb_set(arguments, '{people}', (
    SELECT jsonb_agg(CASE WHEN p->>'email_key' = %(key)s THEN p || %(person)s::jsonb ELSE p END ORDER BY n)
    FROM jsonb_array_elements(arguments->'people') WITH ORDINALITY AS e(p, n)))
  WHEN arguments ? 'name' THEN arguments || %(person)s::jsonb
  ELSE arguments || (%(person)s::jsonb - 'name') END
WHERE id = ANY(%(ids)s::uuid[])"""

CHANGED = "UPDATE sessions SET version = version + 1 WHERE id = %s"

UNREADABLE = """
SELECT partition, stream_id, reason, content FROM unreadable
WHERE (partition, stream_id) > (%s, %s) ORDER BY partition, stream_id LIMIT %s"""

EMPTY_UNREADABLE = """
UPDATE unreadable u SET reason = split_part(reason, ':', 1), content = ''
FROM unnest(%s::int[], %s::text[]) AS w(partition, stream_id)
WHERE u.partition = w.partition AND u.stream_id = w.stream_id"""

# A cancelled session is over from its cancellation on.
_OVER = "least(end_time, cancelled_at) < %(before)s AND NOT pruning"

OVER = f"SELECT id FROM sessions WHERE {_OVER} AND id > %(after)s ORDER BY id LIMIT %(limit)s"  # noqa: S608  constants

OVER_FOR_UPDATE = f"SELECT id, last_seq FROM sessions WHERE {_OVER} AND id = ANY(%(ids)s::bigint[]) ORDER BY id FOR UPDATE"  # noqa: S608  constant

MARK = "UPDATE sessions SET pruning = true WHERE id = ANY(%s::bigint[])"

# Where two prune at once, each takes rows that the other has not.
PRUNE_RESERVATIONS = """
DELETE FROM reservations WHERE id = ANY(ARRAY(
  SELECT r.id FROM sessions s JOIN reservations r ON r.session_id = s.id WHERE s.pruning
  LIMIT %s FOR UPDATE OF r SKIP LOCKED))"""

PRUNE_JOBS = """
DELETE FROM jobs WHERE id = ANY(ARRAY(
  SELECT j.id FROM sessions s JOIN jobs j ON j.session_id = s.id WHERE s.pruning
  LIMIT %s FOR UPDATE OF j SKIP LOCKED)) RETURNING id::text"""

# The last to come here finds nothing of them left.
PRUNE_SESSIONS = """
DELETE FROM sessions s WHERE id IN (SELECT id FROM sessions WHERE pruning LIMIT %s)
AND NOT EXISTS (SELECT FROM reservations WHERE session_id = s.id) AND NOT EXISTS (SELECT FROM jobs WHERE session_id = s.id)
RETURNING id"""

PRUNE_INCIDENTS = "DELETE FROM incidents WHERE id IN (SELECT id FROM incidents WHERE noticed_at < %s LIMIT %s)"

PRUNE_UNREADABLE = """
DELETE FROM unreadable WHERE (partition, stream_id) IN (
  SELECT partition, stream_id FROM unreadable WHERE noticed_at < %s LIMIT %s)"""

OLD_BATCHES = "SELECT id::text FROM batches WHERE created_at < %s AND id > %s::uuid ORDER BY id LIMIT %s"

PRUNE_BATCHES = """
DELETE FROM batches b WHERE id = ANY(%s::uuid[]) AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = ANY(b.job_ids))"""

WOULD_GO = f"""
WITH over AS (SELECT id FROM sessions WHERE ({_OVER}) OR pruning)
SELECT (SELECT count(*) FROM over),
       (SELECT count(*) FROM reservations WHERE session_id IN (SELECT id FROM over)),
       (SELECT count(*) FROM jobs WHERE session_id IN (SELECT id FROM over)),
       (SELECT count(*) FROM batches b WHERE created_at < %(before)s AND NOT EXISTS (
         SELECT FROM jobs j WHERE j.id = ANY(b.job_ids) AND j.session_id NOT IN (SELECT id FROM over))),
       (SELECT count(*) FROM incidents WHERE noticed_at < %(before)s),
       (SELECT count(*) FROM unreadable WHERE noticed_at < %(before)s)"""  # noqa: S608  constants

NO_UUID = "00000000-0000-0000-0000-000000000000"

# Index entries go too, however few they are; the new statistics have none of the old values as samples.
VACUUM = "VACUUM (VERBOSE, ANALYZE, INDEX_CLEANUP ON)"
REWRITE = "VACUUM (FULL, ANALYZE)"
STATISTICS = "pg_statistic"
_CUTOFF = re.compile(r"(?:removable cutoff|oldest xmin): (\d+)")
XIDS = 2**32


@dataclass(frozen=True, slots=True)
class Live:
    """A reservation that somebody holds in a session that is not over."""

    reservation_id: int
    session_id: int
    email: str
    email_key: str
    has_started: bool


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of one person in one session."""

    reservations: int = 0
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much was removed, or would be."""

    sessions: int = 0
    reservations: int = 0
    jobs: int = 0
    batches: int = 0
    incidents: int = 0
    unreadable: int = 0


class Erasure:
    """The statements of forgetting and pruning. Raises Unavailable where Postgres cannot serve; what is done then stays done."""

    def __init__(self, engine: Engine, secret: bytes) -> None:
        self._engine = engine
        self._secret = secret

    def check_rights(self) -> None:
        """Raise NotOwner before anything is begun that this role may not finish."""
        with self._transaction() as connection:
            if not connection.exec_driver_sql(MAY_ERASE).scalar_one():
                raise NotOwner

    # -- a person --------------------------------------------------------------------------------------------------------

    def sessions_naming(self, email_key: str) -> list[int]:
        """The sessions in whose reservations or ledger this person is named. Reads both tables from end to end."""
        with self._transaction() as connection:
            return [row[0] for row in connection.exec_driver_sql(SESSIONS_NAMING, {"key": email_key})]

    def live(self, email_key: str, sessions: Sequence[int]) -> list[Live]:
        """This person's reservations in those of the sessions that are not over."""
        with self._transaction() as connection:
            return _live(connection, email_key, sessions)

    def forget(
        self, partition: int, session_id: int, email_key: str, before_commit: Callable[[Sequence[Job]], None]
    ) -> Erased | None:
        """Put a keyed hash in the place of one person's name and address, in all rows of one session, at once.

        None when a reservation of theirs is live: nothing is changed then. `before_commit(jobs)` hears of the jobs as they
        will read.
        """
        with self._transaction(partition) as connection:
            if connection.exec_driver_sql(LOCK_SESSION, (session_id,)).one_or_none() is None:
                return Erased()
            if _live(connection, email_key, [session_id]):
                return None
            named = {"session": session_id, "key": email_key}
            ledger = connection.exec_driver_sql(LEDGER_ROWS, named).fetchall()
            new = forgotten_key(self._secret, session_id, ledger[0][1] if ledger else 0, email_key)
            held = connection.exec_driver_sql(FORGET_RESERVATIONS, {**named, "name": FORGOTTEN, "new": new}).rowcount
            reach("mid_erasure")
            job_ids = [row[0] for row in ledger]
            person = json.dumps({"name": FORGOTTEN, "email": new, "email_key": new})
            connection.exec_driver_sql(FORGET_JOBS, {"key": email_key, "person": person, "ids": job_ids})
            connection.exec_driver_sql(CHANGED, (session_id,))
            jobs = tuple([job_of(row)[0] for row in connection.exec_driver_sql(JOBS_BY_ID, (job_ids,))])
            before_commit(jobs)
        return Erased(held, jobs)

    def forget_unreadable(self, mentions: Callable[[bytes], bool]) -> int:
        """Empty the entries set aside in which `mentions` finds the person. How many."""
        found, last = 0, (-1, "")
        while True:
            with self._transaction() as connection:
                rows = connection.exec_driver_sql(UNREADABLE, (*last, ROWS_AT_ONCE)).fetchall()
                theirs = [(row[0], row[1]) for row in rows if mentions(bytes(row[3])) or mentions(row[2].encode())]
                if theirs:
                    connection.exec_driver_sql(EMPTY_UNREADABLE, tuple(map(list, zip(*theirs, strict=True))))
            found += len(theirs)
            if len(rows) < ROWS_AT_ONCE:
                return found
            last = (rows[-1][0], rows[-1][1])

    # -- sessions that are over ------------------------------------------------------------------------------------------

    def moment(self, ago: timedelta) -> datetime:
        """The moment that long ago, by Postgres's clock."""
        with self._transaction() as connection:
            return connection.exec_driver_sql("SELECT now() - %s", (ago,)).scalar_one()

    def would_go(self, before: datetime) -> Pruned:
        """How much there is to prune."""
        with self._transaction() as connection:
            return Pruned(*connection.exec_driver_sql(WOULD_GO, {"before": before}).one())

    def over(self, before: datetime, after: int, limit: int) -> list[int]:
        """Sessions that were over before that moment, by id, from the one after `after`."""
        with self._transaction() as connection:
            rows = connection.exec_driver_sql(OVER, {"before": before, "after": after, "limit": limit})
            return [row[0] for row in rows]

    def mark(
        self, partition: int, ids: Sequence[int], before: datetime, retire: Callable[[Mapping[int, int]], Sequence[int]]
    ) -> int:
        """Mark those of a partition's sessions that are still over, and that `retire` has nothing waiting of. How many.

        `retire({id: last seq})` answers the ids of those; from then on nothing is accepted for them.
        """
        with self._transaction(partition) as connection:
            rows = connection.exec_driver_sql(OVER_FOR_UPDATE, {"before": before, "ids": list(ids)}).fetchall()
            marked = list(retire({row[0]: row[1] for row in rows})) if rows else []
            if marked:
                connection.exec_driver_sql(MARK, (marked,))
            return len(marked)

    def prune_reservations(self, limit: int) -> int:
        """Delete reservations of marked sessions. How many there were, at most `limit`."""
        with self._transaction() as connection:
            return connection.exec_driver_sql(PRUNE_RESERVATIONS, (limit,)).rowcount

    def prune_jobs(self, limit: int) -> list[str]:
        """Delete ledger rows of marked sessions. The ids of those there were, at most `limit`."""
        with self._transaction() as connection:
            return [row[0] for row in connection.exec_driver_sql(PRUNE_JOBS, (limit,))]

    def prune_sessions(self, limit: int) -> list[int]:
        """Delete marked sessions of which nothing is left. Their ids, at most `limit`."""
        with self._transaction() as connection:
            return [row[0] for row in connection.exec_driver_sql(PRUNE_SESSIONS, (limit,))]

    def prune_batches(self, before: datetime, limit: int) -> Iterator[int]:
        """Delete batches older than that moment of whose jobs none is left, step by step. How many, of each step."""
        last = NO_UUID
        while True:
            with self._transaction() as connection:
                ids = [row[0] for row in connection.exec_driver_sql(OLD_BATCHES, (before, last, limit))]
                gone = connection.exec_driver_sql(PRUNE_BATCHES, (ids,)).rowcount if ids else 0
            yield gone
            if len(ids) < limit:
                return
            last = ids[-1]

    def prune_incidents(self, before: datetime, limit: int) -> int:
        """Delete incidents older than that moment. How many there were, at most `limit`."""
        with self._transaction() as connection:
            return connection.exec_driver_sql(PRUNE_INCIDENTS, (before, limit)).rowcount

    def prune_unreadable(self, before: datetime, limit: int) -> int:
        """Delete entries that were set aside before that moment. How many there were, at most `limit`."""
        with self._transaction() as connection:
            return connection.exec_driver_sql(PRUNE_UNREADABLE, (before, limit)).rowcount

    # -- what the files keep ---------------------------------------------------------------------------------------------

    def clean(self, rewrite: bool) -> None:
        """Remove the old versions of rows from the tables; with `rewrite` also from the free space of their files, for which
        nobody may read or write a table while it is copied. Raises StillSeen while a transaction of before sees them.
        """
        with translated(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.detach()  # its settings go with it
            for name in ("statement_timeout", "transaction_timeout"):
                connection.exec_driver_sql(UNLIMITED, (name,))
            erased_by = connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one()
            until = time.monotonic() + HORIZON_SECONDS
            for table in (*TABLES, STATISTICS):
                while not _vacuumed(connection, table, int(erased_by)):
                    if time.monotonic() > until:
                        raise StillSeen
                    time.sleep(HORIZON_LOOK_SECONDS)
            for table in (*REWRITTEN, STATISTICS) if rewrite else ():
                connection.exec_driver_sql(f"{REWRITE} {table}")

    @contextmanager
    def _transaction(self, partition: int | None = None) -> Iterator[Connection]:
        """One transaction, which may take long; under a partition's lock, if one is named."""
        with translated(), self._engine.begin() as connection:
            for name in ("statement_timeout", "transaction_timeout"):
                connection.exec_driver_sql(NO_LIMIT, (name,))
            if partition is not None:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
                connection.exec_driver_sql(WAIT_FOR_LOCK, (LOCK_NAMESPACE, partition))
            yield connection


def _live(connection: Connection, email_key: str, sessions: Sequence[int]) -> list[Live]:
    return [Live(*row) for row in connection.exec_driver_sql(LIVE, {"key": email_key, "sessions": list(sessions)})]


def _vacuumed(connection: Connection, table: str, xid: int) -> bool:
    """Vacuum a table. Whether all that was dead before this transaction is gone, as Postgres tells of it."""
    with connection.connection.cursor() as cursor:  # the driver's own: SQLAlchemy's would throw the notices away
        cursor.connection.notices.clear()
        cursor.execute(f"{VACUUM} {table}")
        cutoffs = [int(found) for notice in cursor.connection.notices for found in _CUTOFF.findall(notice)]
    return all((cutoff - xid) % XIDS < XIDS // 2 for cutoff in cutoffs)
