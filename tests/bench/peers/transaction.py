"""One reservation as a transaction under the session's row lock: what queued.py, direct.py and pgbench all carry out.

It leaves the same rows as Aforo: the reservation, its ledger row, the counters. Duplicates are found by the unique index.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg2

LOCK = """SELECT capacity - reserved AS free, last_seq + 1 AS seq FROM sessions WHERE id = %(session)s FOR UPDATE"""

RESERVE = """INSERT INTO reservations (id, session_id, name, email, email_key, seats, status, seq, client, created_at)
 VALUES (nextval('positions'), %(session)s, %(name)s, %(email)s, %(email)s, 1, 'confirmed', %(seq)s, 'open', now())"""

LEDGER = """INSERT INTO jobs (id, session_id, seq, kind, arguments, client, body_hash, batch, outcome, effects, reservation_id,
 position, accepted_at, applied_at)
 VALUES (gen_random_uuid(), %(session)s, %(seq)s, 'reserve',
 jsonb_build_object('name', %(name)s::text, 'email', %(email)s::text, 'email_key', %(email)s::text, 'seats', 1), 'open',
 '0123456789abcdef', currval('positions'), 'confirmed',
 jsonb_build_array(jsonb_build_array('confirmed', currval('positions'), 1)), currval('positions'), currval('positions'),
 now(), now())"""

COUNT = """UPDATE sessions SET reserved = reserved + 1, last_seq = last_seq + 1, version = version + 1 WHERE id = %(session)s"""

# The same as one statement: the row is locked by its update, and for a single round trip.
AT_ONCE = """WITH counted AS (
 UPDATE sessions SET reserved = reserved + 1, last_seq = last_seq + 1, version = version + 1
 WHERE id = %(session)s AND reserved < capacity RETURNING last_seq AS seq
), made AS (
 INSERT INTO reservations (id, session_id, name, email, email_key, seats, status, seq, client, created_at)
 SELECT nextval('positions'), %(session)s, %(name)s, %(email)s, %(email)s, 1, 'confirmed', seq, 'open', now() FROM counted
 RETURNING id, seq
)
INSERT INTO jobs (id, session_id, seq, kind, arguments, client, body_hash, batch, outcome, effects, reservation_id,
 position, accepted_at, applied_at)
 SELECT gen_random_uuid(), %(session)s, seq, 'reserve',
 jsonb_build_object('name', %(name)s::text, 'email', %(email)s::text, 'email_key', %(email)s::text, 'seats', 1), 'open',
 '0123456789abcdef', id, 'confirmed', jsonb_build_array(jsonb_build_array('confirmed', id, 1)), id, id, now(), now() FROM made"""


def reserve(connection: Any, session: int, name: str, email: str) -> str:
    """Reserve one place. The outcome."""
    values = {"session": session, "name": name, "email": email.strip().lower()}
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(LOCK, values)
            row = cursor.fetchone()
            if row is None:
                return "not_found"
            free, values["seq"] = row
            if free < 1:
                return "sold_out"
            cursor.execute(RESERVE, values)
            cursor.execute(LEDGER, values)
            cursor.execute(COUNT, values)
            return "confirmed"
    except psycopg2.errors.UniqueViolation:
        return "duplicate"


def pgbench_script(session: str, *, at_once: bool) -> str:
    """The same statements for pgbench; `session` is its expression for which session. Everybody is a person of their own."""
    begin = [
        f"\\set session {session}",
        "\\set n :n + 1",
        "\\set person :client_id * 100000000 + :n",
    ]
    if at_once:
        return "\n".join([*begin, f"{_for_pgbench(AT_ONCE)};", ""])
    writes = [f"{_for_pgbench(one)};" for one in (RESERVE, LEDGER, COUNT)]
    return "\n".join([*begin, "BEGIN;", f"{_for_pgbench(LOCK)} \\gset", *writes, "END;", ""])


def _for_pgbench(statement: str) -> str:
    for name, value in (("name", "('Guest ' || :person)"), ("email", "('guest-' || :person || '@example.org')")):
        statement = statement.replace(f"%({name})s", value)
    return re.sub(r"%\((\w+)\)s", r":\1", statement)
