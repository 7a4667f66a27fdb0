"""`aforo verify` sees what it must: each case spoils one thing in a sound database, and the first difference names it."""

from __future__ import annotations

import pytest

from core import service
from tests.support.driving import Driver
from tests.support.heads import change_head

CASES = [
    ("UPDATE reservations SET status = 'cancelled', cancelled_at = now() WHERE seq = 1", "reserved is 2"),
    ("UPDATE reservations SET name = 'Somebody' WHERE seq = 1", "reservations are not those of the replay"),
    ("UPDATE reservations SET seats = 2 WHERE seq = 1", "reserved is 2"),
    ("DELETE FROM reservations WHERE seq = 2", "one that was cancelled differs"),
    ("UPDATE sessions SET reserved = 1", "reserved is 1"),
    ("UPDATE sessions SET capacity = 5", "capacity is 5"),
    ("UPDATE sessions SET last_seq = 9", "last_seq is 9"),
    ("UPDATE jobs SET outcome = 'confirmed' WHERE seq = 3", "seq 3: the ledger says"),
    ("UPDATE jobs SET effects = '[]' WHERE seq = 1", "seq 1: the ledger says"),
    ("DELETE FROM jobs WHERE seq = 2", "accepted commands are missing, seq 2 to 2"),
    ("DELETE FROM jobs WHERE seq = 0", "missing, seq 0 to 0"),
    ("UPDATE jobs SET position = position + 1000000 WHERE seq = 1", "seq 2 was applied before its predecessor"),
    ("DELETE FROM sessions", "which does not exist"),
    ("UPDATE reservations SET session_id = session_id + 1", "reserved is 2, its confirmed rows hold 0"),
    ("UPDATE reservations SET seq = seq + 10 WHERE seq = 1", "reservations are not those of the replay"),
    ("UPDATE reservations SET email_key = 'x' WHERE seq = 1", "reservations are not those of the replay"),
    ("UPDATE jobs SET reservation_id = NULL WHERE seq = 1", "seq 1: the ledger says"),
    ("UPDATE jobs SET kind = 'cancel', arguments = arguments - 'name' - 'seats' WHERE seq = 1", "seq 1: the ledger says"),
    (
        "INSERT INTO reservations (id, session_id, name, email, email_key, status, seq, client, created_at)"
        " SELECT id + 1000000, session_id, name, email, 'x', status, seq, client, created_at FROM reservations WHERE seq = 1",
        "reserved is 2, its confirmed rows hold 3",
    ),
    (
        "ALTER TABLE sessions DROP CONSTRAINT sessions_never_overbooked; UPDATE sessions SET capacity = 1",
        "overbooked, 2 of 1",
    ),
]


@pytest.fixture
def sound(driver: Driver) -> Driver:
    session = driver.new_session(capacity=2)
    receipts = driver.reserve(session, "ana", "bo", "cy")
    receipts += driver.cancel(session, "bo", "nobody")
    receipts += driver.reserve(session, "dee")
    driver.drain_all()
    driver.check(receipts)
    return driver


@pytest.mark.parametrize(("statement", "words"), CASES, ids=[statement[:76] for statement, _ in CASES])
def test_what_was_spoilt_is_named(sound: Driver, statement: str, words: str) -> None:
    sound.deployment.sql(statement)
    report = sound.report()
    assert not report.ok
    assert words in report.differences[0]


def test_a_count_in_redis_that_differs_at_the_same_version_is_named(sound: Driver) -> None:
    (name,) = sound.redis.keys("aforo:*:s:*")
    change_head(sound.redis, name, r=1)
    report = sound.report()
    assert report.difference_count == 1
    assert "Redis has" in report.differences[0]


def test_an_older_count_in_redis_is_a_publication_on_its_way_and_no_difference(sound: Driver) -> None:
    (name,) = sound.redis.keys("aforo:*:s:*")
    change_head(sound.redis, name, v=1, r=0)
    assert sound.report().ok


def test_a_total_of_sessions_that_differs_is_named(sound: Driver) -> None:
    sound.deployment.sql("UPDATE session_totals SET sessions = sessions + 1 WHERE hour = '-infinity'")
    report = sound.report()
    assert report.difference_count == 1
    assert "the total of sessions" in report.differences[0]
    sound.deployment.sql("SELECT recount_sessions()")
    assert sound.report().ok


def test_a_sound_database_is_found_sound_while_commands_are_applied(sound: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "DRAIN_SECONDS", -1.0)  # a batch a turn
    session = sound.new_session(capacity=500)
    sound.reserve(session, *(f"guest{n}" for n in range(400)))
    with Driver(sound.deployment, batch_size=50) as other:
        reports = []
        while other.drain(other.partition(session)):
            reports.append(sound.report())
    assert len(reports) == 8
    assert [report.differences for report in reports] == [[]] * len(reports)
