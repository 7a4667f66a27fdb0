"""Counting requests in Redis: what passes, what it costs, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from core.errors import Unavailable
from core.limits import Buckets, Limiter, Turnstile, Verdict, network_of
from core.mailbox import connect_async
from core.settings import Rate
from ops.localstack import free_port
from tests.support.erasing import files_with, log_files
from tests.support.stack import Deployment

Run = Callable[[Limiter], Awaitable[Any]]
SLOWLY = "60/h burst 10"  # one comes back each minute, ten at most: none while a test runs
MINUTE = 60


def limited(redis_url: str, run: Run, key: str | None = None, address: str | None = None) -> Any:
    """Run with a limiter of these rates."""

    async def whole() -> Any:
        client = connect_async(redis_url, max_connections=1)
        try:
            return await run(Limiter(client, Rate.parse(key), Rate.parse(address)))
        finally:
            await client.connection_pool.disconnect()

    return asyncio.run(whole())


async def several(limiter: Limiter, buckets: Buckets, count: int, asked: int = 1, paid: int = 0) -> list[Verdict]:
    """One after the other."""
    return [await limiter(buckets, asked, paid) for _ in range(count)]


def left(verdict: Verdict) -> list[int]:
    return [int(part.partition("r=")[2].partition(";")[0]) for part in verdict.standing.split(", ")]


def is_about(seconds: int, expected: int) -> bool:
    """Whether it is that long, less the time that this test has taken."""
    return expected - MINUTE < seconds <= expected


def test_a_burst_passes_and_then_it_is_told_when_to_come_again(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        verdicts = await several(limiter, limiter.buckets("10.0.0.1", None), 12)
        assert [verdict.passes for verdict in verdicts] == [True] * 10 + [False] * 2
        assert [left(verdict) for verdict in verdicts[:3]] == [[9], [8], [7]]
        assert is_about(verdicts[-1].retry_seconds(), MINUTE)
        standing, _, full_seconds = verdicts[-1].standing.rpartition("=")
        assert (verdicts[0].policies, standing) == ('"address";q=10;w=600', '"address";r=0;t')
        assert is_about(int(full_seconds), 10 * MINUTE)
        assert (await limiter(limiter.buckets("10.0.0.2", None))).passes

    limited(deployment.redis_url, run, address=SLOWLY)


def test_what_was_used_comes_back_with_time(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        buckets = limiter.buckets("10.0.0.1", None)
        await several(limiter, buckets, 5)
        for _ in range(500):
            if (await limiter(buckets)).passes:
                return
            await asyncio.sleep(0.01)
        pytest.fail("it never passed again")

    limited(deployment.redis_url, run, address="20/s burst 5")


def test_key_and_address_must_both_have_some_left_and_a_refusal_costs_neither(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        both = limiter.buckets("10.0.0.1", "k1")
        assert [verdict.passes for verdict in await several(limiter, both, 5)] == [True] * 3 + [False] * 2
        assert left(await limiter(limiter.buckets("10.0.0.1", None))) == [6]  # ten, less three, less this one
        assert (await limiter(limiter.buckets("10.0.0.1", "k2"))).passes

    limited(deployment.redis_url, run, key="3/h", address="10/h")


def test_a_refused_request_writes_nothing_and_an_allowed_one_not_to_the_log(deployment: Deployment) -> None:
    redis = deployment.redis()

    async def run(limiter: Limiter) -> None:
        buckets = limiter.buckets("198.18.77.1", None)
        await several(limiter, buckets, 10)
        kept = redis.get(buckets[0].key)
        assert kept is not None
        assert not any(verdict.passes for verdict in await several(limiter, buckets, 20))
        assert redis.get(buckets[0].key) == kept

    limited(deployment.redis_url, run, address=SLOWLY)
    redis.set("marker-of-this-test", "logged")
    assert files_with(log_files(deployment), "marker-of-this-test")
    assert files_with(log_files(deployment), "198.18.77.1") == []


def test_buckets_are_forgotten_by_themselves(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        for n in range(50):
            await limiter(limiter.buckets(f"10.0.0.{n}", f"k{n}"))

    limited(deployment.redis_url, run, key=SLOWLY, address=SLOWLY)
    redis = deployment.redis()
    names = list(redis.scan_iter("aforo:*"))
    assert len(names) == 100
    assert all(0 < redis.pttl(name) <= 60_000 + 1000 * MINUTE for name in names)


def test_a_request_of_many_commands_costs_as_many_and_one_that_is_larger_than_a_burst_pays_later(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        some, more = limiter.buckets("10.0.0.1", None), limiter.buckets("10.0.0.2", None)
        assert left(await limiter(some, 4)) == [6]
        assert not (await limiter(some, 7)).passes
        assert left(await limiter(some, 6)) == [0]
        assert (await limiter(more)).passes
        assert (await limiter(more, 100, 1)).passes  # one of the hundred was paid before, nine are left
        verdict = await limiter(more)
        assert not verdict.passes
        assert is_about(verdict.retry_seconds(), 91 * MINUTE)

    limited(deployment.redis_url, run, address=SLOWLY)


def test_what_was_paid_can_be_given_back(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        buckets = limiter.buckets("10.0.0.1", "k")
        await limiter(buckets, 7)
        assert left(await limiter(buckets, 0, 5)) == [8, 8]

    limited(deployment.redis_url, run, key=SLOWLY, address=SLOWLY)


def test_a_clock_that_was_put_back_keeps_nobody_out_for_long(deployment: Deployment) -> None:
    redis = deployment.redis()

    async def run(limiter: Limiter) -> None:
        buckets = limiter.buckets("10.0.0.1", None)
        seconds, _ = redis.time()
        redis.set(buckets[0].key, (seconds + 86_400) * 1_000_000)
        verdict = await limiter(buckets)
        assert (verdict.passes, verdict.retry_seconds() <= 1000 * MINUTE) == (False, True)

    limited(deployment.redis_url, run, address=SLOWLY)


def test_several_processes_together_never_let_more_pass_than_the_limit(deployment: Deployment) -> None:
    async def run(first: Limiter) -> list[int]:
        client = connect_async(deployment.redis_url, max_connections=1)
        second = Limiter(client, None, Rate.parse("1/h burst 1000"))
        calls = [limiter(first.buckets(f"10.0.0.{n % 2}", None)) for n in range(6000) for limiter in (first, second)]
        verdicts = await asyncio.gather(*calls)
        await client.connection_pool.disconnect()
        return [sum(verdict.passes for verdict in verdicts if verdict.buckets[0].key.endswith(end)) for end in (".0", ".1")]

    passed = limited(deployment.redis_url, run, address="1/h burst 1000")
    assert all(500 <= count <= 1000 for count in passed), passed


def test_a_busy_caller_does_not_cost_a_call_for_each_request(deployment: Deployment) -> None:
    redis = deployment.redis()

    async def run(limiter: Limiter) -> None:
        buckets = limiter.buckets("10.0.0.1", None)
        await limiter(buckets)
        before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        for _ in range(100):
            await asyncio.gather(*(limiter(buckets) for _ in range(20)))
        assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 500

    limited(deployment.redis_url, run, address="100000/s")


def test_what_is_taken_ahead_is_counted_and_nothing_is_taken_for_who_comes_seldom(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        busy, seldom = limiter.buckets("10.0.0.1", None), limiter.buckets("10.0.0.2", None)
        await asyncio.gather(*(limiter(busy) for _ in range(20)))
        assert left(await limiter(busy, 2)) == [10_000 - 20 - 40 - 2]
        assert left((await several(limiter, seldom, 5))[-1]) == [9995]
        assert left(await limiter(seldom, 2)) == [9993]

    limited(deployment.redis_url, run, address="1/h burst 10000")


def test_a_script_that_the_server_forgot_is_sent_again(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        buckets = limiter.buckets("10.0.0.1", None)
        assert (await limiter(buckets)).passes
        deployment.redis().script_flush()
        assert left(await limiter(buckets)) == [8]

    limited(deployment.redis_url, run, address=SLOWLY)


def test_without_redis_it_says_so() -> None:
    async def run(limiter: Limiter) -> None:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await limiter(limiter.buckets("10.0.0.1", None))

    limited(f"redis://127.0.0.1:{free_port()}/0", run, address=SLOWLY)


def test_after_its_connection_was_cut_it_makes_another(deployment: Deployment) -> None:
    async def run(limiter: Limiter) -> None:
        buckets = limiter.buckets("10.0.0.1", None)
        await limiter(buckets)
        deployment.redis().client_kill_filter(_id=limiter_id(deployment))
        with suppress(Unavailable):
            await limiter(buckets)
        assert (await limiter(buckets)).passes

    limited(deployment.redis_url, run, address=SLOWLY)


def limiter_id(deployment: Deployment) -> str:
    """The connection of the limiter, as the server numbers it."""
    database = deployment.redis_url.rpartition("/")[2]
    (found,) = [one["id"] for one in deployment.redis().client_list() if one["db"] == database and one["cmd"] == "evalsha"]
    return found


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_an_address_stands_for_whoever_can_choose_it(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_turnstile_lets_so_many_of_each_in() -> None:
    turnstile = Turnstile(2)
    with turnstile.place("ana") as first, turnstile.place("ana") as second, turnstile.place("ana") as third:
        assert (first, second, third) == (True, True, False)
        with turnstile.place("bo") as other:
            assert other
    with turnstile.place("ana") as again:
        assert again
    assert turnstile._inside == {}
