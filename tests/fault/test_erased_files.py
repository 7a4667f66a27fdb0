"""What was erased leaves the files too: Redis's append-only log, and the tables and indexes of Postgres."""

from __future__ import annotations

import uuid

import psycopg2
import pytest

from core import crashpoints, erasure, service
from core.errors import StillSeen
from core.mailbox import key
from core.scrub import Scrub
from tests.support.driving import Driver
from tests.support.erasing import end, files_with, forget, log_files, rows_with, table_files
from tests.support.waiting import until


def test_the_bytes_leave_the_append_only_file_and_with_rewrite_also_the_files_of_the_tables(driver: Driver) -> None:
    name = f"n{uuid.uuid4().hex}"
    for _ in range(2):
        session = driver.new_session(capacity=400)
        driver.reserve(session, *(f"guest{n}" for n in range(300)), name, *(f"friend{n}" for n in range(40)))
        driver.drain_all()
        end(driver, session)
    driver.deployment.sql("ANALYZE")
    assert files_with(log_files(driver.deployment), name)
    assert len(files_with(table_files(driver.deployment), name)) >= 3  # reservations, their index, the ledger
    forget(driver.deployment, name, rewrite=True)
    until(lambda: not files_with(log_files(driver.deployment), name), what="the old file is deleted")
    assert files_with(table_files(driver.deployment), name) == []
    driver.check()


def test_an_entry_of_the_mailbox_stays_in_memory_as_long_as_its_neighbours(driver: Driver) -> None:
    name, mailbox = f"n{uuid.uuid4().hex}", key(0, "mailbox")
    scrub = Scrub(driver.redis, 16, 60)
    entry = driver.redis.xadd(mailbox, {"c": name})
    neighbour = driver.redis.xadd(mailbox, {"c": "neighbour"})
    driver.redis.xdel(mailbox, entry)
    assert scrub.has_passed(0, entry.decode())
    assert not scrub.has_left_behind(0, 1)
    assert scrub.rewrite_log()
    assert files_with(log_files(driver.deployment), name)  # deleted, and yet written again
    driver.redis.xdel(mailbox, neighbour)
    assert scrub.has_left_behind(0, 1)
    assert scrub.rewrite_log()
    until(lambda: not files_with(log_files(driver.deployment), name), what="the old file is deleted")


def test_the_log_is_not_written_anew_before_the_neighbours_of_an_entry_are_gone(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DRAIN_SECONDS", -1.0)  # a batch a turn
    name = f"n{uuid.uuid4().hex}"
    session = driver.new_session(capacity=0)
    receipts = driver.reserve(session, name)
    crashpoints.arm("after_read", lambda: receipts.extend(driver.reserve(session, "bo")))
    assert forget(driver.deployment, name).jobs == 1
    assert driver.outcomes(receipts) == ["sold_out", "sold_out"]
    until(lambda: not files_with(log_files(driver.deployment), name), what="the old file is deleted")


def test_an_entry_is_left_behind_when_a_whole_node_has_come_and_gone_since(driver: Driver) -> None:
    mailbox, scrub = key(0, "mailbox"), Scrub(driver.redis, 16, 60)
    entries = [driver.redis.xadd(mailbox, {"c": "x"}) for _ in range(120)]
    driver.redis.xdel(mailbox, *entries[:100])
    assert not scrub.has_left_behind(0, 1)
    driver.redis.xdel(mailbox, entries[100])
    assert scrub.has_left_behind(0, 1)
    assert not scrub.has_left_behind(1, 1) or scrub.accepted(1) == 0


def test_old_rows_that_an_older_transaction_sees_are_told_of(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "HORIZON_SECONDS", 0.0)
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.cancel(session, "ana")
    driver.drain_all()
    reader = psycopg2.connect(driver.deployment.owner_url)
    reader.set_session(isolation_level="REPEATABLE READ")
    reader.cursor().execute("SELECT count(*) FROM reservations")
    with pytest.raises(StillSeen):
        forget(driver.deployment, "ana")
    assert rows_with(driver.deployment, "ana@example.org") == 0
    reader.rollback()  # which is over when it returns; a server hears later of a connection that closes
    reader.close()
    assert forget(driver.deployment, "ana").jobs == 0
