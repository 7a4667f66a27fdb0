"""Valkey out of memory, killed, started again: refusals, never half a command, never a lost 202."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis
import uvloop

from core.errors import Unavailable
from core.mailbox import connect_async
from core.model import CONFIGURE, ConfigureArguments
from tests.support.driving import Driver
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until


def test_out_of_memory_refuses_whole_commands_and_still_drains(own_servers: Servers) -> None:
    with Driver(own_servers.deployment()) as driver:
        session = driver.new_session(capacity=1000)
        receipts = driver.reserve(session, *(f"guest{n}" for n in range(300)))
        driver.redis.config_set("maxmemory", "1mb")
        before = set(driver.redis.keys())
        for _ in range(3):
            with pytest.raises(Unavailable):
                driver.reserve(session, "late")
        assert set(driver.redis.keys()) == before
        assert driver.waiting(session) == 300
        driver.drain_all()
        assert driver.waiting(session) == 0
        with pytest.raises(Unavailable):
            driver.reserve(session, "later")
        driver.redis.config_set("maxmemory", "0")
        receipts += driver.reserve(session, "late")
        assert receipts[-1].job.seq == 301
        driver.drain_all()
        driver.check(receipts)
        assert driver.counts(session) == (301, 301)


def test_out_of_memory_an_entry_stays_until_all_that_it_changed_is_told(own_servers: Servers) -> None:
    with Driver(own_servers.deployment()) as driver:
        session = driver.new_session(capacity=1, waitlist_capacity=1000)
        partition = driver.partition(session)
        receipts = driver.reserve(session, *(f"guest{n}" for n in range(300)))
        driver.drain_all()
        assert driver.outcomes(receipts) == ["confirmed"] + ["waitlisted"] * 299
        receipts += driver.accept([(CONFIGURE, session, ConfigureArguments(capacity=300))])
        driver.redis.config_set("maxmemory", "1mb")
        with pytest.raises(Unavailable):  # 299 are let in: more than a part of the news holds
            driver.drain.round([[partition], [partition]])
        assert driver.waiting(session) == 1
        driver.redis.config_set("maxmemory", "0")
        driver.drain_all()
        driver.check(receipts)


def test_every_accepted_command_survives_valkey_being_killed(own_servers: Servers) -> None:
    with Driver(own_servers.deployment()) as driver:
        session = driver.new_session(capacity=1000)
        receipts = []
        for round_ in range(5):
            receipts += driver.reserve(session, *(f"guest{round_}-{n}" for n in range(50)))
            own_servers.valkey.kill()
            with pytest.raises(Unavailable):
                driver.drain(driver.partition(session))
            own_servers.valkey.start()
            assert driver.waiting(session) == 50
            until(driver.can_drain_all, 15, "everything is drained after Valkey is back")
        driver.check(receipts)
        assert [receipt.job.seq for receipt in receipts] == list(range(1, 251))
        assert driver.counts(session) == (250, 250)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_that_closes_just_before_a_write_is_a_lost_one(deployment: Deployment, run: Callable[..., None]) -> None:
    async def write_to_what_was_just_closed() -> None:
        client = connect_async(deployment.redis_url, max_connections=1)
        pool = client.connection_pool
        connection = await pool.get_connection()
        await pool.release(connection)
        connection._writer.transport.abort()  # what a server that ends leads to, before the loop has heard of it
        with pytest.raises(redis.ConnectionError):
            await client.ping()
        assert await client.ping()
        await client.aclose()

    run(write_to_what_was_just_closed())
