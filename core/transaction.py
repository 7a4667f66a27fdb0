"""One drain's transaction in Postgres, under its partition's lock: all statements of a batch.

For a batch of a few dozen commands the round trips and what is around them cost more than the rows. So there are three as a rule:
one takes the lock, one reads all, and what is written is gathered and goes with the commit. All of it goes to psycopg2 as it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from sqlalchemy.engine import Engine

from core.crashpoints import is_armed, reach
from core.decide import Decision
from core.entries import Unreadable
from core.model import (
    FILL,
    JOB_FORMAT,
    MOVES_MAX,
    SEATS_MAX,
    STRICT,
    Command,
    Job,
    JobReservation,
    Reservation,
    Session,
    people_of,
)
from core.numbering import Incident, Known, Loaded
from core.pgerrors import READ_ONLY
from core.rows import (
    array,
    columns,
    incident_columns,
    job_arrays,
    job_line,
    reservation_arrays,
    reservation_line,
    texts,
    time_text,
)
from core.waitlist import WaitlistNeed, Window

LOCK_NAMESPACE = 0x41464F  # 'AFO': keeps our advisory locks apart from other applications' in the same database

SETTING_COLUMNS = (
    "id", "capacity", "reserved", "waitlist_capacity", "waitlist_policy", "max_seats_per_reservation", "opens_at", "closes_at",
    "start_time", "end_time", "closed_at", "cancelled_at",
)  # fmt: skip

CHANGING_COLUMNS = ("id", "name", "status", "seats", "cancelled_at", "rank", "checked_in_at")  # of a reservation

# A batch finds its few rows by index, however large the tables are; an estimate that is off must not lead to a whole table, nor
# to a whole session: dear rows make the narrowest index the cheapest, also where a wider one has a level less.
BEGIN = """
BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
SET LOCAL cpu_tuple_cost = 1; SET LOCAL cpu_index_tuple_cost = 1;"""

# Functions in Postgres, whose statements are planned once for a connection (core/migrations/versions/0009, 0011). The first tries
# the locks of partitions, and where it got all of them it does what the second does: look which jobs the ledger has, lock the
# sessions' rows in id order and read them; then fresh positions, and who holds a place.
BEGIN_BATCH = BEGIN + " SELECT * FROM begin_batch(%s, %s, %s, %s, %s, %s)"  # noqa: S608  constants
LOAD_BATCH = "SELECT * FROM load_batch(%s, %s, %s, %s)"

WRITE_BATCH = f"SELECT write_batch({', '.join(['%s'] * 29)})"
FEW = 100  # so many rows of a table go by write_batch, more by COPY: two more round trips, but half of what a row costs

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

INSERT_INCIDENTS = """
INSERT INTO incidents (kind, partition, session_id, detail)
SELECT * FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::jsonb[])"""

INSERT_UNREADABLE = """
INSERT INTO unreadable (partition, stream_id, reason, content)
SELECT * FROM unnest(%s::int[], %s::text[], %s::text[], %s::bytea[]) ON CONFLICT DO NOTHING"""


@contextmanager
def opened(engine: Engine, partitions: Sequence[int], ahead: Sequence[Command]) -> Iterator[Batch | None]:
    """One transaction under the locks of those of these partitions that nobody else has; None if there are none. Commits at the
    end, rolls back on any error. With all of the locks, what the commands `ahead` need is loaded at once."""
    with plain_cursor(engine) as cursor:
        cursor.execute(BEGIN_BATCH, (LOCK_NAMESPACE, array(partitions), *_wanted(ahead)))
        ((locked, now, *found),) = cursor.fetchall()
        if not locked:
            yield None
            cursor.execute("ROLLBACK")
            return
        batch = Batch(cursor, tuple(locked), now)
        if ahead and len(locked) == len(partitions):
            batch.ahead = batch.loaded(*found)
        yield batch
        batch.commit()


@contextmanager
def plain_cursor(engine: Engine) -> Iterator[Any]:
    """Of a connection that begins and ends nothing by itself, since that would be round trips of its own."""
    connection = engine.raw_connection()
    driver: Any = connection.dbapi_connection
    is_sound = False
    try:
        driver.autocommit = True
        with driver.cursor() as cursor:
            yield cursor
        driver.autocommit = False
        is_sound = True
    except BaseException as exc:
        # Where nothing can be written any more (a server was demoted), a new connection may lead elsewhere.
        is_sound = getattr(exc, "pgcode", None) != READ_ONLY and _is_rolled_back(driver)
        raise
    finally:
        (connection.close if is_sound else connection.invalidate)()


def _is_rolled_back(driver: Any) -> bool:
    with suppress(psycopg2.Error):
        with driver.cursor() as cursor:
            cursor.execute("ROLLBACK")
        driver.autocommit = False
        return True
    return False


class Batch:
    """What the transaction reads and writes. What is written is sent when the next is read, or with the commit."""

    def __init__(self, cursor: Any, partitions: tuple[int, ...], applied_at: int) -> None:
        self._cursor = cursor
        self._unsent: list[bytes] = []
        self.partitions = partitions
        self.applied_at = applied_at
        self.ahead: Loaded | None = None

    def load(self, commands: Sequence[Command]) -> Loaded:
        """Lock the sessions concerned, and read all that nearly every batch needs."""
        ((held, locked, positions, live),) = self._rows(LOAD_BATCH, _wanted(commands))
        return self.loaded(held, locked, positions, live)

    def loaded(self, held: Any, locked: Any, positions: Any, live: Any) -> Loaded:
        """What `load_batch` answered."""
        sessions = [_session(row) for row in locked or ()]
        found = [Reservation(*row) for row in live or ()]
        return Loaded(
            self.known(held) if held else {},  # as good as never
            {session.id: session for session in sessions},
            {(r.session_id, r.email_key): r for r in found},
            positions or [],
        )

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

    def write(self, decision: Decision) -> None:
        """Write a decision whole: cancels before inserts, so that a place and a person can change hands within a batch."""
        if decision.updated:
            self._later(UPDATE_RESERVATIONS, columns(decision.updated, *CHANGING_COLUMNS))
        if max(len(decision.inserted), len(decision.verdicts)) > FEW or is_armed("mid_transaction"):
            self._copy(decision)
        elif decision.inserted or decision.verdicts:
            rows = (*reservation_arrays(decision.inserted), *job_arrays(decision.verdicts))
            batch = decision.verdicts[0].command.position if decision.verdicts else None
            self._later(WRITE_BATCH, (*rows, batch, time_text(self.applied_at)))
        if decision.configured:
            self._later(UPDATE_SETTINGS, columns(decision.configured, *SETTING_COLUMNS))
        if decision.sessions:
            sessions = sorted(decision.sessions.values(), key=lambda s: s.id)
            found = columns(sessions, "id", "reserved", "waiting", "last_seq", "version")
            self._later(UPDATE_SESSIONS, tuple(map(array, found)))

    def _copy(self, decision: Decision) -> None:
        self._send()
        if decision.inserted:
            self._copy_in(COPY_RESERVATIONS, map(reservation_line, decision.inserted))
        reach("mid_transaction")
        if decision.verdicts:
            batch, applied_at = decision.verdicts[0].command.position, time_text(self.applied_at)
            self._copy_in(COPY_JOBS, [job_line(verdict, batch, applied_at) for verdict in decision.verdicts])

    def record_incidents(self, partition: int, incidents: Sequence[Incident]) -> None:
        """Write down what only lost data can cause."""
        self._later(INSERT_INCIDENTS, incident_columns(incidents, partition))

    def set_aside(self, partition: int, unreadable: Sequence[Unreadable]) -> None:
        """Keep entries that are no commands where an operator can see them."""
        rows = [(partition, u.stream_id, u.reason, u.content) for u in unreadable]
        self._later(INSERT_UNREADABLE, tuple(map(list, zip(*rows, strict=True))))

    def commit(self) -> None:
        """The last of the writing, and the end."""
        self._later("COMMIT")
        self._send()

    def _later(self, statement: str, parameters: tuple[Any, ...] = ()) -> None:
        self._unsent.append(self._cursor.mogrify(statement, parameters))

    def _send(self) -> None:
        if self._unsent:
            statements, self._unsent = self._unsent, []
            self._cursor.execute(b";".join(statements))

    def _rows(self, statement: str, parameters: tuple[Any, ...]) -> Sequence[Any]:
        self._send()
        self._cursor.execute(statement, parameters)
        return self._cursor.fetchall()

    def _jobs(self, statement: str, parameters: tuple[Any, ...]) -> list[tuple[Job, Known]]:
        return [job_of(row) for row in self._rows(statement, parameters)]

    def _copy_in(self, statement: str, lines: Iterable[str]) -> None:
        self._cursor.copy_expert(statement, io.BytesIO("".join(lines).encode()))


def _wanted(commands: Sequence[Command]) -> tuple[str, ...]:
    """What `load_batch` is asked for these."""
    people = list({(c.session_id, email_key) for c in commands for email_key in people_of(c.arguments)})
    return (
        array([c.job_id for c in commands]),
        array(sorted({c.session_id for c in commands})),
        array([session_id for session_id, _ in people]),
        texts([email_key for _, email_key in people]),
    )


_POLICIES = (STRICT, FILL)


def _session(row: list[Any]) -> Session:
    """A row of what `load_batch` locked."""
    row[9] = _POLICIES[row[9]]
    return Session(*row)


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
