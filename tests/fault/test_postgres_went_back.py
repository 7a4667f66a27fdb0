"""Postgres put back to an earlier state, behind Redis: noticed, no longer shown, and what comes next is decided as ever."""

from __future__ import annotations

import threading

import pytest

from core.bootstrap import owner_services
from core.door import Receipt
from core.mailbox import key
from core.queries import SessionView
from tests.support.driving import Driver
from tests.support.heads import head_in
from tests.support.http import Api, person
from tests.support.stack import Stack
from tests.support.waiting import until
from worker import sweeper

FORGET = """
WITH gone AS (DELETE FROM jobs WHERE session_id = %s AND seq > %s RETURNING seq),
     left_too AS (DELETE FROM reservations WHERE session_id = %s AND seq > %s)
SELECT count(*) FROM gone"""
PUT_BACK = "UPDATE sessions SET reserved = %s, waiting = %s, last_seq = %s, version = %s WHERE id = %s"


def put_back(driver: Driver, before: SessionView) -> None:
    """Have Postgres forget what the session has gone through since; as a restore does, or a standby that lagged behind."""
    driver.deployment.sql(FORGET, *(before.id, before.last_seq) * 2)
    driver.deployment.sql(PUT_BACK, before.reserved, before.waiting, before.last_seq, before.version, before.id)


def one_lost(driver: Driver) -> tuple[int, list[Receipt]]:
    """A session whose second command was decided, shown, and forgotten by Postgres. Both commands."""
    session = driver.new_session(capacity=2)
    receipts = driver.reserve(session, "ana")
    driver.drain_all()
    before = driver.queries.session(session)
    receipts += driver.reserve(session, "bo", key="bo-comes-1")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    assert before is not None
    put_back(driver, before)
    return session, receipts


def recheck(driver: Driver) -> int:
    """What the sweeper does after Postgres was away. How many sessions were not what Redis said."""
    driver.worker.recheck.begin()
    while driver.worker.recheck.step():
        pass
    return driver.worker.recheck.found


def incidents(driver: Driver) -> list[tuple]:
    return driver.deployment.sql("SELECT kind, session_id, detail FROM incidents ORDER BY id")


def head(driver: Driver, session: int) -> list[str]:
    found = head_in(driver.redis, key(driver.partition(session), f"s:{session}"))
    return [found[field] for field in "qar"]


def test_an_outcome_that_postgres_has_lost_is_noticed_and_no_longer_shown(driver: Driver) -> None:
    session, receipts = one_lost(driver)
    other = driver.new_session()
    receipts += driver.reserve(other, "cy")
    driver.drain_all()
    assert head(driver, session) == ["2", "2", "2"]
    assert recheck(driver) == 1
    assert incidents(driver) == [("postgres_went_back", session, {"redis_seq": 2, "postgres_seq": 1})]
    assert driver.outcomes(receipts) == ["confirmed", "lost", "confirmed"]
    assert head(driver, session) == ["2", "1", "1"]
    assert driver.counts(session) == (1, 1)
    assert recheck(driver) == 0
    assert len(incidents(driver)) == 1


def test_a_head_that_alone_knows_of_numbers_does_not_expire(driver: Driver) -> None:
    session, receipts = one_lost(driver)
    name = key(driver.partition(session), f"s:{session}")
    assert driver.redis.ttl(name) > 0
    recheck(driver)
    assert driver.redis.ttl(name) == -1
    assert driver.reserve(session, "cy")[0].job.seq == 3
    driver.drain_all()
    assert head(driver, session) == ["3", "3", "2"]
    assert driver.redis.ttl(name) > 0
    assert driver.outcomes(receipts[:1]) == ["confirmed"]


def test_a_lost_command_that_is_sent_again_is_decided_anew_and_the_gap_stays(driver: Driver) -> None:
    session, receipts = one_lost(driver)
    recheck(driver)
    again = driver.reserve(session, "bo", key="bo-comes-1")
    assert not again[0].known
    assert (again[0].job.id, again[0].job.seq) == (receipts[1].job.id, 3)
    driver.drain_all()
    assert driver.outcomes([receipts[0], *again]) == ["confirmed", "confirmed"]
    repeated = driver.reserve(session, "bo", key="bo-comes-1")
    assert repeated[0].known
    assert repeated[0].job.outcome == "confirmed"
    assert [kind for kind, *_ in incidents(driver)] == ["postgres_went_back", "seq_gap"]
    report = driver.report()
    assert (report.gaps, report.difference_count) == (1, 1)
    assert "accepted commands are missing, seq 2 to 2" in report.differences[0]


def test_what_postgres_still_has_is_answered_as_before_also_under_its_key(driver: Driver) -> None:
    session, _ = one_lost(driver)
    kept = driver.reserve(session, "cy", key="cy-comes-1")  # under a number that leaves a gap
    driver.drain_all()
    recheck(driver)
    driver.redis.set(key(driver.partition(session), "doubt"), "1", ex=driver.settings.job_ttl_seconds)
    repeated = driver.reserve(session, "cy", key="cy-comes-1")
    assert (repeated[0].known, repeated[0].job) == (True, driver.job(kept[0].job.id))
    assert driver.waiting(session) == 0


def test_a_gap_alone_is_enough_to_ask_the_ledger(driver: Driver) -> None:
    session, receipts = one_lost(driver)
    later = driver.reserve(session, "cy")
    driver.drain_all()
    for name in ("dee", "eve"):  # until the row is as far as the head was, as if nobody had rechecked
        later += driver.reserve(session, name)
        driver.drain_all()
    assert driver.outcomes([*receipts, *later]) == ["confirmed", "lost", "confirmed", "sold_out", "sold_out"]
    assert recheck(driver) == 0
    assert [kind for kind, *_ in incidents(driver)] == ["seq_gap"]


def test_verify_tells_of_a_head_that_is_ahead(driver: Driver) -> None:
    session, _ = one_lost(driver)
    (difference,) = driver.report().differences
    assert difference == f"session {session}: Redis has heard of seq 2, Postgres is at 1: it has gone back"
    recheck(driver)
    assert driver.report().differences == []


def test_all_sessions_are_looked_at_however_many_there_are(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.recheck.PAGE", 2)
    lost = [one_lost(driver)[0] for _ in range(3)]
    assert recheck(driver) == 3
    assert [session for _, session, _ in incidents(driver)] == lost


def test_nothing_is_found_where_nothing_is_wrong(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana", "bo")
    driver.drain_all()
    driver.reserve(session, "cy")
    assert recheck(driver) == 0
    driver.drain_all()
    assert recheck(driver) == 0
    assert incidents(driver) == []
    assert not driver.redis.exists(key(driver.partition(session), "doubt"))


def test_the_sweeper_looks_whenever_it_starts(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = one_lost(driver)
    monkeypatch.setattr(sweeper, "prepare", lambda _: driver.settings)
    stop = threading.Event()
    sweeping = threading.Thread(target=sweeper.run, args=(stop,))
    sweeping.start()
    try:
        until(lambda: incidents(driver), 15, "it is noticed")
    finally:
        stop.set()
        sweeping.join()
    assert driver.counts(session) == (1, 1)


def test_clients_are_told_the_truth_again(live_api: Stack) -> None:
    with Driver(live_api.deployment) as driver, Api(live_api.url) as api:
        session = api.new_session(capacity=2)
        api.reserve(session)
        before = driver.queries.session(session)
        assert before is not None
        bo = person("bo")
        lost = api.reserve(session, bo, Idempotency_Key="bo-comes-1").json()
        put_back(driver, before)
        assert api.job(lost["id"])["outcome"] == "confirmed"
        recheck(driver)
        assert api.get(f"/api/jobs/{lost['id']}").status_code == 404
        assert api.free(session) == 1
        again = api.reserve(session, bo, Idempotency_Key="bo-comes-1")
        assert (again.status_code, again.json()["id"], again.json()["seq"]) == (201, lost["id"], 3)
        assert api.free(session) == 0
        api.cancel(session, bo["email"])
        close_the_gap(driver, session)


def close_the_gap(driver: Driver, session: int) -> None:
    """Others replay the whole ledger of this deployment: leave nothing that it would find."""
    driver.deployment.sql("DELETE FROM jobs WHERE session_id = %s", session)
    driver.deployment.sql("DELETE FROM reservations WHERE session_id = %s", session)
    driver.deployment.sql("DELETE FROM sessions WHERE id = %s", session)
    driver.redis.delete(*(key(p, "doubt") for p in range(driver.settings.partitions)))


def test_what_was_restored_gives_no_id_a_second_time(driver: Driver) -> None:
    session, receipts = one_lost(driver)
    (lost,) = [job.reservation.id for job in driver.jobs([receipts[1].job.id]) if job and job.reservation]
    driver.deployment.sql("SELECT setval('positions', %s - 32)", lost)  # as it was then
    operator = owner_services(driver.deployment.settings(owner_url=driver.deployment.owner_url))
    operator.store.skip_ids()
    assert operator.recheck() == 1
    operator.close()
    later = driver.reserve(session, "cy")
    driver.drain_all()
    (job,) = driver.jobs([later[0].job.id])
    assert job is not None
    assert job.reservation is not None
    assert job.reservation.id > lost + 10**9
    assert driver.new_session() > session + 1000


def test_after_a_restore_every_old_outcome_is_asked_of_the_ledger_though_no_head_tells(driver: Driver) -> None:
    session, receipts = one_lost(driver)
    driver.redis.delete(key(driver.partition(session), f"s:{session}"))  # nobody asked for minutes
    operator = owner_services(driver.deployment.settings(owner_url=driver.deployment.owner_url))
    assert operator.recheck() == 0
    operator.close()
    assert driver.outcomes(receipts) == ["confirmed", "lost"]
