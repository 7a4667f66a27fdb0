"""Second servers promoted: what the first one had acknowledged is there, or it is noticed that it is not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from core import migrations
from core.errors import Unavailable
from ops.localstack import free_port
from tests.conftest import temporary_folder
from tests.support.damage import kill_postgres
from tests.support.driving import Driver
from tests.support.proxy import Proxy
from tests.support.replicas import NAME, Standby, admin, commits_wait_for, port_of, standby, with_both
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until


@dataclass(slots=True)
class Pair:
    """A Postgres, its standby, and the line between them."""

    servers: Servers
    line: Proxy
    standby: Standby
    deployment: Deployment

    def cut_the_line(self) -> None:
        """What the first one writes does not arrive any more; neither of them hears of it."""
        self.line.go_half_open()

    def fail_over(self) -> None:
        """The first one is gone, the second takes its place."""
        kill_postgres(self.servers.postgres)
        self.standby.promote()


@pytest.fixture
def pair(own_servers: Servers) -> Iterator[Pair]:
    first = own_servers.deployment()
    with temporary_folder("standby") as folder, Proxy(port_of(own_servers.owner_url)) as line:
        second = standby(own_servers, folder, line.port)
        try:
            yield Pair(own_servers, line, second, with_both(first, second.port))
        finally:
            second.running.kill()


def test_an_outcome_is_shown_only_when_the_standby_has_it_and_so_survives_the_failover(pair: Pair) -> None:
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
        pair.fail_over()
        with pytest.raises(Unavailable):
            drained.result()
        receipts += driver.reserve(session, "cy")  # accepting needs no Postgres
        until(driver.can_drain_all, 30, "the promoted standby is found")
        assert driver.outcomes(receipts) == ["confirmed"] * 3
        assert driver.check(receipts).gaps == 0
        assert incidents(driver) == []


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
