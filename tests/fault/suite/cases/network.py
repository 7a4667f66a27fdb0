"""The network between our processes and Redis: replies that get lost, and a broker that nobody hears any more."""

from __future__ import annotations

import time

from tests.fault.suite.books import Books
from tests.fault.suite.case import Run, case
from tests.fault.suite.clients import Crowd, wish
from tests.fault.suite.stage import Stage
from tests.support.proxy import Proxy
from tests.support.stack import Servers
from tests.support.waiting import until

LOST_SHARE = 0.1
SWEPT_SECONDS = 2.0
DEAF_SECONDS = 20.0
HEARS_AGAIN_SECONDS = 90.0
UNSWEPT_MS = 450  # the sweeper leaves what is younger than 500 ms alone
Outage = tuple[float, float]  # wall clock, in milliseconds


@case(
    "lost-replies",
    fault="lost replies",
    injected="a proxy before Redis, for the API, workers and sweeper, that forwards a call, awaits its reply and hangs up "
    "instead, 10 % of them during 20,000 requests",
    passes="0 duplicates, nobody quarantined",
    in_tests=0.03,
)
def lost_replies(run: Run) -> None:
    """The script ran, and whoever called it does not know."""
    with Proxy(_port(run.servers()), run.seed) as proxy:
        stage = run.stage(redis_proxy=proxy)
        venues = run.venues(stage)
        proxy.lose_replies(LOST_SHARE)
        with run.traffic(stage, venues, requests=run.scaled(20_000)) as traffic:
            traffic.join()
        proxy.pass_on()
        run.injected(proxy.lost_replies)
        run.require(proxy.lost_replies > 0, "no reply was lost")
        found = run.check(stage, traffic.history)
        blamed = [row.job for row in found.rows() if row.outcome == "quarantined"]
        run.require(not blamed, f"quarantined: {blamed}")


@case(
    "deaf-broker",
    fault="deaf broker",
    injected="Valkey restarted 30 times; then a proxy before the broker that goes half-open for 20 s",
    passes="drained within 2 s by the sweeper",
)
def deaf_broker(run: Run) -> None:
    """Workers that hear no bell, because their connection to the broker broke or swallows everything."""
    servers = run.own_servers()
    with Proxy(_port(servers), run.seed) as proxy:
        stage = run.stage(servers, broker_proxy=proxy)
        venues = run.venues(stage)
        outages = []
        with run.traffic(stage, venues, per_second=200) as traffic:
            for _ in range(run.scaled(30)):
                time.sleep(run.random.uniform(0.3, 1.0))
                outages.append(_restarted(servers))
            time.sleep(1)
            proxy.go_half_open()
            time.sleep(run.scaled(DEAF_SECONDS, least=3))
        found = run.check(stage, traffic.history)
        run.injected(len(outages) + 1)
        delays = _delays(found, outages)
        run.recovered(*delays)
        late = [delay for delay in delays if delay > SWEPT_SECONDS]
        run.require(not late, f"{len(late)} of {len(delays)} commands waited longer, the longest {max(delays):.2f} s")
        proxy.pass_on()
        run.note(f"the workers heard the bell again {_hears_again(stage, venues[-1].id):.0f} s after the network was whole")


def _restarted(servers: Servers) -> Outage:
    down = time.time() * 1000
    servers.valkey.stop()
    servers.valkey.start()
    return down, time.time() * 1000


def _delays(found: Books, outages: list[Outage]) -> list[float]:
    """How many seconds each command took to be applied, not counting the time that Valkey was not there."""
    delays = []
    for row in found.rows():
        backs = [up for down, up in outages if row.accepted_ms <= up and down <= row.applied_ms]
        delays.append((row.applied_ms - max([row.accepted_ms, *backs])) / 1000)
    return delays


def _hears_again(stage: Stage, session: int) -> float:
    """Seconds until a command is applied sooner than the sweeper would."""
    crowd = Crowd(stage.url)
    started = time.monotonic()

    def heard() -> bool:
        call = crowd.send([wish(session, "reserve", f"late-{len(crowd.history.calls)}@example.org")])[0]
        assert call.job is not None, call
        stage.drained()
        ((took,),) = stage.deployment.sql(
            "SELECT extract(epoch FROM applied_at - accepted_at) * 1000 FROM jobs WHERE id = %s", call.job.id
        )
        return took < UNSWEPT_MS

    until(heard, HEARS_AGAIN_SECONDS, "the workers hear the bell again")
    return time.monotonic() - started


def _port(servers: Servers) -> int:
    return int(servers.redis_url.rpartition(":")[2].partition("/")[0])
