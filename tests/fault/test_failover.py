"""Second servers promoted: what the first one had acknowledged is there, or it is noticed that it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from core import migrations
from core.bootstrap import ApiServices
from core.door import TOO_FEW_REPLICAS, Receipt
from core.errors import Unavailable, Unconfirmed
from ops.localstack import free_port
from tests.conftest import temporary_folder
from tests.support.driving import Driver
from tests.support.replicas import NAME, Couple, Pair, admin, commits_wait_for, coupled, paired, with_both
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until


@pytest.fixture(scope="module")
def hurt() -> Iterator[Servers]:
    """Servers for the tests of this file, which kill them."""
    with temporary_folder("failover") as folder:
        servers = Servers(folder)
        try:
            yield servers
        finally:
            servers.close()


@pytest.fixture
def pair(hurt: Servers) -> Iterator[Pair]:
    with paired(hurt) as found:
        yield found


@pytest.fixture
def couple(hurt: Servers) -> Iterator[Couple]:
    with coupled(hurt) as found:
        yield found


def test_an_outcome_is_shown_only_when_the_standby_has_it_and_so_survives_the_failover(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.threads.WRITE_SECONDS", 0.5)
    commits_wait_for(pair.servers.owner_url, NAME)
    with Driver(pair.deployment) as driver, ThreadPoolExecutor(1) as threads:
        session = driver.new_session()
        receipts = driver.reserve(session, "ana")
        driver.drain_all()
        assert driver.outcomes(receipts) == ["confirmed"]
        pair.cut_the_line()
        receipts += driver.reserve(session, "bo")
        drained = threads.submit(driver.drain, driver.partition(session))
        until(lambda: waits_for_standby(pair), 15, "the commit waits")
        assert driver.outcomes(receipts) == ["confirmed", None]
        assert driver.counts(session) == (1, 1)
        asyncio.run(write_and_read(pair, session))
        pair.fail_over()
        with pytest.raises(Unavailable):
            drained.result()
        receipts += driver.reserve(session, "cy")  # accepting needs no Postgres
        until(driver.can_drain_all, 30, "the promoted standby is found")
        assert driver.outcomes(receipts) == ["confirmed"] * 3
        assert driver.check(receipts).gaps == 0
        assert incidents(driver) == []


async def write_and_read(pair: Pair, session: int) -> None:
    """More writes of an API process than it has threads for: none is confirmed, and it reads all the same."""
    services = ApiServices(pair.deployment.settings())
    await services.start()
    try:
        writes = [services.written(services.store.update_session, session, {"title": f"{n}"}) for n in range(6)]
        answers = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 6
        assert await services.heads.find(session)
    finally:
        await services.stop()


def waits_for_standby(pair: Pair) -> bool:
    return bool(admin(pair.servers.owner_url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))


def test_a_url_of_several_hosts_is_good_for_everything(deployment: Deployment) -> None:
    both = with_both(deployment, free_port())  # where nobody listens
    settings = both.settings(owner_url=both.owner_url)
    assert migrations.upgrade(settings) == migrations.newest()
    with Driver(both) as driver:
        receipts = driver.reserve(driver.new_session(), "ana")
        driver.drain_all()
        driver.check(receipts)


def test_what_a_lagging_standby_never_had_is_noticed_and_everything_accepted_is_decided(pair: Pair) -> None:
    """The control: without waiting for the standby, outcomes that were shown are lost with the first server."""
    with Driver(pair.deployment) as driver:
        session = driver.new_session()
        receipts = driver.reserve(session, "ana")
        driver.drain_all()
        until(lambda: pair.standby.has_received(pair.servers.owner_url), 15, "the standby has received it")
        pair.cut_the_line()
        receipts += driver.reserve(session, "bo", key="bo-comes-1")
        driver.drain_all()
        assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
        receipts += driver.reserve(session, "cy")
        pair.fail_over()
        driver.worker.recheck.begin()
        until(lambda: rechecked(driver), 30, "the promoted standby is found, and what it lacks")
        driver.drain_all()
        assert driver.outcomes(receipts) == ["confirmed", "lost", "confirmed"]
        assert incidents(driver) == ["postgres_went_back", "seq_gap"]
        again = driver.reserve(session, "bo", key="bo-comes-1")
        driver.drain_all()
        assert driver.outcomes(again) == ["confirmed"]
        assert driver.report().differences == [f"session {session}: accepted commands are missing, seq 2 to 2"]


def rechecked(driver: Driver) -> bool:
    try:
        return not driver.worker.recheck.step()
    except Unavailable:
        return False


def incidents(driver: Driver) -> list[str]:
    return [kind for (kind,) in driver.deployment.sql("SELECT kind FROM incidents ORDER BY id")]


def test_a_command_counts_as_accepted_when_the_replica_has_it_and_so_survives_the_failover(couple: Couple) -> None:
    with Driver(couple.deployment, redis_replicas=1) as driver:
        session = driver.new_session()
        receipts = until(lambda: accepted(driver, session, "ana"), 30, "the replica confirms")
        couple.cut_the_line()
        with pytest.raises(Unconfirmed):
            driver.reserve(session, "bo", key="bo-comes-1")
        assert driver.waiting(session) == 2  # it would be applied, if this server lived
        with pytest.raises(Unavailable, match=TOO_FEW_REPLICAS):
            driver.reserve(session, "cy")
        assert driver.waiting(session) == 2  # nothing more is taken in that could not be confirmed
        couple.fail_over()
        assert driver.went_back == []
    with Driver(couple.deployment) as driver:
        assert driver.waiting(session) == 1
        again = driver.reserve(session, "ana", key="ana-comes-1")
        assert (again[0].known, again[0].job.seq) == (True, receipts[0].job.seq)
        receipts += driver.reserve(session, "bo", key="bo-comes-1")
        driver.drain_all()
        assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
        assert driver.check(receipts).gaps == 0


def test_what_another_process_took_in_is_not_answered_before_the_replica_has_it(couple: Couple) -> None:
    with Driver(couple.deployment, redis_replicas=1) as one, Driver(couple.deployment, redis_replicas=1) as other:
        session = one.new_session()
        until(lambda: accepted(other, session, "ana"), 30, "the replica confirms")
        couple.cut_the_line()
        for driver in (one, other):
            with pytest.raises(Unconfirmed):
                driver.reserve(session, "bo", key="bo-comes-1")
        assert one.waiting(session) == 2
        couple.mend_the_line()
        (again,) = until(lambda: accepted(other, session, "bo"), 30, "the replica is trusted again")
        assert (again.known, again.job.seq) == (True, 2)


def accepted(driver: Driver, session: int, name: str) -> list[Receipt]:
    try:
        return driver.reserve(session, name, key=f"{name}-comes-1")
    except Unavailable:  # on a machine that stands still a replica may take too long
        return []


def test_without_the_replica_s_word_what_it_never_had_is_lost_and_noticed(couple: Couple) -> None:
    """The control: a 202 tells of one server, and is lost with it."""
    with Driver(couple.deployment) as driver:
        session = driver.new_session()
        receipts = driver.reserve(session, "ana")
        driver.drain_all()
        until(lambda: couple.replica.has_all_of(couple.deployment.redis_owner_url), 15, "the replica has it")
        couple.cut_the_line()
        receipts += driver.reserve(session, "bo")
        couple.fail_over()
        receipts += driver.reserve(session, "cy")
        assert driver.went_back == [(driver.partition(session), 2, 1)]
        until(driver.can_drain_all, 15, "a worker has found the new server")  # its connection was used a moment ago
        assert driver.outcomes(receipts) == ["confirmed", "lost", "confirmed"]
