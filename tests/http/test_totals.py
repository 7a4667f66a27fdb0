"""How many sessions there are, which a list tells: kept and not counted, and always what counting would say."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from alembic import command
from psycopg2.extensions import connection as Connection

from core import migrations
from core.finding import DIFFERING_TOTALS, SessionSearch
from core.queries import Queries
from core.store import create_engine
from tests.http.test_kept_pages import applying, kept, reserved
from tests.support.http import person
from tests.support.inside import Process, with_two
from tests.support.stack import Deployment

SEED = 20_300_401
WRITERS, TURNS = 6, 120
BOUND_SECONDS = 60.0

NEW = "INSERT INTO sessions (title, start_time, end_time, closes_at, capacity) VALUES ('', %s, %s, %s, %s)"
COUNTED = """
SELECT count(*) FILTER (WHERE NOT pruning AND closed_at IS NULL AND cancelled_at IS NULL AND reserved < capacity
         AND end_time > now() AND (closes_at IS NULL OR closes_at > now())),
       count(*) FILTER (WHERE NOT pruning) FROM sessions"""

# What may happen to a session: its end comes within some hours of now, so that totals of this and of other hours change.
CHANGES = (
    "UPDATE sessions SET reserved = capacity WHERE id = %(id)s",
    "UPDATE sessions SET reserved = 0, version = version + 1 WHERE id = %(id)s",
    "UPDATE sessions SET closed_at = CASE WHEN closed_at IS NULL THEN now() END WHERE id = %(id)s",
    "UPDATE sessions SET cancelled_at = now() WHERE id = %(id)s AND id %% 5 = 0",
    "UPDATE sessions SET end_time = %(end)s WHERE id = %(id)s",
    "UPDATE sessions SET closes_at = CASE WHEN closes_at IS NULL THEN %(end)s END WHERE id = %(id)s",
    "UPDATE sessions SET capacity = reserved WHERE id BETWEEN %(id)s AND %(id)s + 3",
    "UPDATE sessions SET pruning = true WHERE id = %(id)s AND id %% 3 = 0",
    "DELETE FROM sessions WHERE pruning AND id = %(id)s",
)
ALONE = CHANGES[:6] + CHANGES[7:]  # of one session


@pytest.fixture
def connect(deployment: Deployment) -> Iterator[Callable[[], Connection]]:
    """Makes connections of the tables' owner."""
    made: list[Connection] = []

    def one() -> Connection:
        made.append(psycopg2.connect(deployment.owner_url, options="-c lock_timeout=20s -c deadlock_timeout=100ms"))
        return made[-1]

    yield one
    for connection in made:
        connection.close()


@contextmanager
def queries_of(deployment: Deployment) -> Iterator[Queries]:
    engine = create_engine(deployment.settings().database_url, 1)
    try:
        yield Queries(engine)
    finally:
        engine.dispose()


def told(queries: Queries) -> tuple[int, int]:
    """How many can be booked, and how many there are, as lists tell."""
    bookable, there = (queries.sessions(SessionSearch(open_only=only), 1)[0] for only in (True, False))
    return bookable, there


def end_of(chance: random.Random) -> datetime:
    return datetime.now(UTC) + timedelta(minutes=chance.randrange(-120, 240))


def insert(cursor: Any, chance: random.Random, count: int = 1) -> None:
    begin = datetime.now(UTC) - timedelta(hours=9)
    for _ in range(count):
        closes = end_of(chance) if chance.random() < 0.3 else None
        cursor.execute(NEW, (begin, end_of(chance), closes, chance.randrange(1, 4)))


async def cancelled(process: Process, session: int, who: dict[str, str]) -> None:
    path = f"/api/sessions/{session}/cancel/"
    status, _, job = await process.ask("POST", path, {"email": who["email"]}, prefer="wait=20")
    assert status == 200, job


def test_totals_are_what_counting_says_in_every_snapshot_while_many_change_them(
    connect: Callable[[], Connection], deployment: Deployment
) -> None:
    over = threading.Event()

    def change(writer: int) -> None:
        chance, connection = random.Random(SEED + writer), connect()
        for _ in range(TURNS):
            with connection.cursor() as cursor:
                for _ in range(chance.randrange(1, 4)):
                    if chance.random() < 0.4:
                        insert(cursor, chance)
                    else:  # sessions of one's own: those of others would be waited for crosswise, which no batch does
                        session = chance.randrange(1, 40) * WRITERS + writer
                        cursor.execute(chance.choice(ALONE), {"id": session, "end": end_of(chance)})
            (connection.rollback if chance.random() < 0.2 else connection.commit)()

    def look() -> int:
        connection, looks = connect(), 0
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        while not over.is_set() or looks < 3:
            with connection, connection.cursor() as cursor:
                cursor.execute(DIFFERING_TOTALS)
                assert cursor.fetchall() == []
            looks += 1
        return looks

    with ThreadPoolExecutor(WRITERS + 1) as threads:
        looking = threads.submit(look)
        try:
            list(threads.map(change, range(WRITERS), timeout=BOUND_SECONDS))
        finally:
            over.set()
        assert looking.result(BOUND_SECONDS) > 0
    slots = deployment.sql("SELECT max(n) FROM (SELECT count(*) AS n FROM session_totals GROUP BY hour) AS w")[0][0]
    assert 1 <= slots <= 3 * WRITERS  # one writer may take another row the next time
    with queries_of(deployment) as queries:
        assert told(queries) == deployment.sql(COUNTED)[0]


def test_who_changes_a_total_waits_for_nobody(connect: Callable[[], Connection], deployment: Deployment) -> None:
    end = datetime.now(UTC) + timedelta(days=9)
    with connect() as first, first.cursor() as cursor:
        for _ in range(3):
            cursor.execute(NEW, (end - timedelta(hours=1), end, None, 1))
    (one, two, three) = (row[0] for row in deployment.sql("SELECT id FROM sessions ORDER BY id"))
    holds, comes = connect(), connect()
    holds.cursor().execute("UPDATE sessions SET reserved = 1 WHERE id = %s", (one,))
    with comes, comes.cursor() as cursor:
        cursor.execute("SET lock_timeout = '1ms'")
        cursor.execute("UPDATE sessions SET reserved = 1 WHERE id = %s", (two,))
        insert(cursor, random.Random(SEED))
    holds.cursor().execute("UPDATE sessions SET reserved = 1 WHERE id = %s", (three,))
    holds.rollback()
    with queries_of(deployment) as queries:
        assert told(queries) == deployment.sql(COUNTED)[0]


@pytest.mark.parametrize("minutes", [-60, -1, 0, 1, 29, 59, 60, 61, 121, 100_000])
def test_totals_are_right_at_every_moment_of_an_hour(connect: Callable[[], Connection], minutes: int) -> None:
    """Whatever the clock says: one that is put before Postgres's own, which nothing else of the statement asks."""
    connection = connect()
    hour = datetime(2031, 5, 1, 18, tzinfo=UTC)
    with connection, connection.cursor() as cursor:
        for minute in range(-150, 150, 10):
            for seconds in (0, 1):
                end = hour + timedelta(minutes=minute, seconds=seconds)
                cursor.execute(NEW, (hour - timedelta(days=1), end, None, 5))
                cursor.execute(NEW, (hour - timedelta(days=1), hour + timedelta(days=2), end, 5))
        cursor.execute("CREATE SCHEMA clock")
        now = (hour + timedelta(minutes=minutes)).isoformat()
        cursor.execute(f"CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$SELECT timestamptz '{now}'$$")
    url = connection.info.dsn_parameters
    engine = create_engine(
        f"postgresql://{url['user']}:{connection.info.password}@{url['host']}:{url['port']}/{url['dbname']}"
        "?options=-c%20search_path%3Dclock%2Cpublic%2Cpg_catalog",
        1,
    )
    try:
        count, _, left = Queries(engine).sessions(SessionSearch(), 1)
    finally:
        engine.dispose()
    with connection.cursor() as cursor:
        cursor.execute("SET search_path = clock, public, pg_catalog")
        cursor.execute(COUNTED)
        assert count == cursor.fetchall()[0][0]
        cursor.execute("SELECT extract(epoch FROM min(bookable_until) - now()) FROM sessions WHERE bookable_until > now()")
        (soonest,) = cursor.fetchone()  # type: ignore[misc]
    assert (left is None) == (soonest is None)


def test_the_last_place_and_its_return_change_the_total_in_every_process(deployment: Deployment) -> None:
    async def run(one: Process, other: Process) -> None:
        sessions = [await one.new_session(capacity=1) for _ in range(3)]
        far = "/api/sessions/?page=9"  # a page that shows none of them tells the total all the same
        for path in ("/api/sessions/", far):
            for process in (one, other):
                assert (await kept(process, path))["count"] == 3
        with applying(deployment, *sessions):
            for left, session in zip((2, 1, 0), sessions, strict=True):
                who = person()
                await reserved(one, session, who)
                for process, path in itertools.product((other, one), ("/api/sessions/", far)):
                    assert (await process.get(path))["count"] == left
                if left == 1:
                    await cancelled(other, session, who)
                    for process in (one, other):
                        assert (await process.get(far))["count"] == 2
                    await reserved(other, session, who)
        for process in (one, other):
            assert (await process.get("/api/sessions/?available=all"))["count"] == 3
            assert (await process.get("/api/sessions/"))["results"] == []

    with_two(deployment, run)


def test_a_total_follows_the_clock(deployment: Deployment) -> None:
    async def run(one: Process, other: Process) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=3)  # before it all is made and read, also on a busy machine
        begun = {"start_time": (soon - timedelta(hours=1)).isoformat(), "end_time": soon.isoformat()}
        await one.new_session(**begun)
        await one.new_session(closes_at=soon.isoformat())
        await one.new_session()
        assert (await one.get("/api/sessions/"))["count"] == 3
        until = soon + timedelta(seconds=BOUND_SECONDS)
        for process in (one, other):
            while (await process.get("/api/sessions/"))["count"] != 1:
                assert datetime.now(UTC) < until
            assert datetime.now(UTC) >= soon
            assert (await process.get("/api/sessions/?available=all"))["count"] == 3

    with_two(deployment, run)


def test_a_migration_counts_what_is_there(connect: Callable[[], Connection], deployment: Deployment) -> None:
    chance = random.Random(SEED)
    with connect() as connection, connection.cursor() as cursor:
        insert(cursor, chance, 60)
        for session in range(1, 60):
            cursor.execute(chance.choice(CHANGES), {"id": session, "end": end_of(chance)})
    before = deployment.sql(COUNTED)[0]
    engine = create_engine(deployment.owner_url, 1)
    try:
        with engine.begin() as running:
            config = migrations._config()
            config.attributes["connection"] = running
            command.downgrade(config, "0011")
    finally:
        engine.dispose()
    migrations.upgrade(deployment.settings(owner_url=deployment.owner_url))
    assert deployment.sql(DIFFERING_TOTALS) == []
    with queries_of(deployment) as queries:
        assert told(queries) == before == deployment.sql(COUNTED)[0]
