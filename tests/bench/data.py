"""What the bench puts into the databases, set-wise and as Aforo would have written it, and what it counts there.

`aforo verify` agrees with every row made here: ids, seqs, effects and counters are those of reserves that were confirmed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2

from tests.bench.workload import SESSION_DIGITS
from tests.support.stack import Deployment

FIRST_SESSION = 10 ** (SESSION_DIGITS - 1)
CAPACITY = 1_000_000
CHUNK = 50_000
MOST = 10**9

# Ids of jobs as Aforo makes them: 32 bits of the session's crc32, then random ones, version 8.
JOB_ID = "overlay(lpad(to_hex(crc32({0}::text::bytea)), 8, '0') || substr(gen_random_uuid()::text, 9) placing '8' from 15)::uuid"

SESSIONS = f"""
WITH made AS (
  INSERT INTO sessions (title, description, location, start_time, end_time, capacity)
  SELECT 'Session ' || n, 'Somebody shows how it is done, and everybody tries it.', 'Room ' || n %% 50,
         date_trunc('day', now()) + interval '30 days' + n * interval '1 minute',
         date_trunc('day', now()) + interval '30 days 2 hours' + n * interval '1 minute', %(capacity)s
  FROM generate_series(1, %(count)s) AS n RETURNING id, capacity, start_time, end_time
), ledgered AS (
  INSERT INTO jobs (id, session_id, seq, kind, arguments, client, body_hash, batch, outcome, position, accepted_at, applied_at)
  SELECT {JOB_ID.format("id")}, id, 0, 'create', jsonb_build_object('capacity', capacity,
         'start_time', (extract(epoch FROM start_time) * 1000)::bigint,
         'end_time', (extract(epoch FROM end_time) * 1000)::bigint), 'open', '', 0, 'created', nextval('positions'), now(), now()
  FROM made RETURNING session_id
)
SELECT min(session_id) FROM ledgered"""

# Row n goes to session first + n %% sessions; chunks are whole rounds over the sessions, or a part of the last one.
RESERVATIONS = """
INSERT INTO reservations (id, session_id, name, email, email_key, seats, status, seq, client, created_at)
SELECT %(position)s + 32 * n, %(first)s + n %% %(sessions)s, 'Guest ' || n, 'guest-' || n || '@example.org',
       'guest-' || n || '@example.org', 1, 'confirmed', 1 + n / %(sessions)s, 'open', date_trunc('milliseconds', now())
FROM generate_series(%(start)s::bigint, %(end)s::bigint - 1) AS n"""

LEDGER = f"""
INSERT INTO jobs (id, session_id, seq, kind, arguments, client, body_hash, batch, outcome, effects, reservation_id, position,
  accepted_at, applied_at)
SELECT {JOB_ID.format("(%(first)s + n %% %(sessions)s)")}, %(first)s + n %% %(sessions)s, 1 + n / %(sessions)s, 'reserve',
       jsonb_build_object('name', 'Guest ' || n, 'email', 'guest-' || n || '@example.org',
         'email_key', 'guest-' || n || '@example.org', 'seats', 1), 'open', '0123456789abcdef', %(position)s, 'confirmed',
       jsonb_build_array(jsonb_build_array('confirmed', %(position)s + 32 * n, 1)), %(position)s + 32 * n,
       %(position)s + 32 * n, date_trunc('milliseconds', now()), date_trunc('milliseconds', now())
FROM generate_series(%(start)s::bigint, %(end)s::bigint - 1) AS n"""

COUNTERS = """
UPDATE sessions s SET reserved = reserved + w.made, last_seq = last_seq + w.made, version = version + 1
FROM (SELECT %(first)s + n %% %(sessions)s AS id, count(*) AS made
      FROM generate_series(%(start)s::bigint, %(end)s::bigint - 1) AS n GROUP BY 1) AS w
WHERE s.id = w.id"""

# Room in the sequence for so many; one after the other, for raising it takes two steps.
POSITIONS = """
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(1))
SELECT setval('positions', nextval('positions') + 32 * %s::bigint) - 32 * %s::bigint FROM turn"""

BEGIN_IDS = "SELECT setval('sessions_id_seq', greatest(last_value, %s)) FROM sessions_id_seq"
APPLIED = "SELECT count(*) FROM jobs WHERE session_id BETWEEN %s AND %s AND seq > 0"
APPLIED_FAST = "SELECT coalesce(sum(last_seq), 0)::bigint FROM sessions WHERE id BETWEEN %s AND %s"
BATCHES = "SELECT count(DISTINCT batch) FROM jobs WHERE session_id BETWEEN %s AND %s AND seq > 0"
SOUND = """
SELECT (SELECT coalesce(sum(reserved), 0) FROM sessions WHERE id BETWEEN %(first)s AND %(last)s)::bigint,
       (SELECT count(*) FROM reservations WHERE status = 'confirmed' AND session_id BETWEEN %(first)s AND %(last)s)"""
HEADS = "SELECT id, capacity, reserved, last_seq, version FROM sessions WHERE id BETWEEN %s AND %s ORDER BY id"
SIZES = "SELECT coalesce(sum(pg_total_relation_size(c)), 0)::bigint FROM unnest(%s::regclass[]) AS c"


@dataclass(frozen=True, slots=True)
class Block:
    """Sessions with consecutive ids."""

    first: int
    count: int

    @property
    def last(self) -> int:
        """The last one's id."""
        return self.first + self.count - 1


class Books:
    """One database, as its owner."""

    def __init__(self, deployment: Deployment) -> None:
        self._connection = psycopg2.connect(deployment.owner_url)
        self._connection.autocommit = True
        self.rows(BEGIN_IDS, (FIRST_SESSION,))

    def rows(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement; its rows, if it has any."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def emptied(self) -> None:
        """No sessions, no reservations, no ledger."""
        self.rows("TRUNCATE sessions, reservations, jobs, batches")

    def sessions(self, count: int, capacity: int = CAPACITY) -> Block:
        """New sessions."""
        return Block(self.rows(SESSIONS, {"count": count, "capacity": capacity})[0][0], count)

    def fill(self, block: Block, reservations: int) -> None:
        """Reservations for sessions that have none, spread evenly."""
        for _ in self.filling(block, CHUNK, reservations):
            pass

    def filling(self, block: Block, chunk: int, reservations: int | None = None) -> Iterator[int]:
        """The same, or without end, each chunk in a transaction; yields how many there are so far."""
        most = reservations or MOST
        position = self.rows(POSITIONS, (most, most))
        values = {"first": block.first, "sessions": block.count, "position": position[0][0]}
        for start in range(0, most, chunk):
            values |= {"start": start, "end": min(start + chunk, most)}
            with self._connection.cursor() as cursor:
                cursor.execute("BEGIN")
                for statement in (RESERVATIONS, LEDGER, COUNTERS):
                    cursor.execute(statement, values)
                cursor.execute("COMMIT")
            yield values["end"]

    def heads(self, block: Block) -> list[tuple[Any, ...]]:
        """Id, capacity, reserved, last seq and version of each."""
        return self.rows(HEADS, (block.first, block.last))

    def applied(self, block: Block) -> int:
        """Commands of these sessions that the ledger has."""
        return self.rows(APPLIED, (block.first, block.last))[0][0]

    def applied_so_far(self, block: Block) -> int:
        """The same from the sessions' own counters, quick enough to ask for while it is being measured."""
        return self.rows(APPLIED_FAST, (block.first, block.last))[0][0]

    def batches(self, block: Block) -> int:
        """In how many transactions they were applied."""
        return self.rows(BATCHES, (block.first, block.last))[0][0]

    def is_sound(self, block: Block) -> bool:
        """Whether the counters are what the reservations say."""
        counted, held = self.rows(SOUND, {"first": block.first, "last": block.last})[0]
        return counted == held

    def bytes_of(self, *tables: str) -> int:
        """What tables take with their indexes."""
        return self.rows(SIZES, (list(tables),))[0][0]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
