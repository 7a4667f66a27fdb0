"""Valkey killed, torn and out of memory: what was answered with 202 is there when it is back, and the control loses it."""

from __future__ import annotations

import time

from tests.fault.suite import checker
from tests.fault.suite.case import Run, case
from tests.fault.suite.history import ACCEPTED, MAYBE, History
from tests.fault.suite.stage import Stage
from tests.support.damage import AppendOnly
from tests.support.waiting import until

KEY_DELAY_MICROS = 500  # so that a rewrite takes a while
TORN_SECONDS = 0.3  # everysec may lose more


@case(
    "valkey-crash",
    fault="Valkey crash",
    injected="kill -9, 20 times, with AOF always, every second time with half a command at the log's end; once more during "
    "BGREWRITEAOF",
    passes="every 202 applied",
    in_tests=0.1,
)
def valkey_crash(run: Run) -> None:
    """The log is all that a kill leaves, and all that was answered is in it."""
    servers = run.own_servers()
    stage = run.stage(servers)
    log = AppendOnly(servers.valkey)
    back = []
    with run.traffic(stage) as traffic:
        for number in range(run.scaled(20, least=2)):
            time.sleep(run.random.uniform(0.3, 1.2))
            servers.valkey.kill()
            if number % 2:
                log.tear()
            servers.valkey.start()
            back.append(time.time() * 1000)
        time.sleep(run.random.uniform(0.3, 1.2))
        _begin_rewrite(stage)
        servers.valkey.kill()
        servers.valkey.start()
        back.append(time.time() * 1000)
        time.sleep(0.5)
    run.injected(len(back))
    run.recovered_after(back, run.check(stage, traffic.history))


def _begin_rewrite(stage: Stage) -> None:
    stage.redis.config_set("rdb-key-save-delay", KEY_DELAY_MICROS)
    stage.redis.bgrewriteaof()
    until(lambda: stage.redis.info("persistence")["aof_rewrite_in_progress"], 15, "the log is being rewritten")


@case(
    "torn-log-control",
    fault="control: Valkey crash with everysec",
    injected="kill -9, 5 times, with appendfsync everysec and the log cut back to what it was 0.3 s before",
    passes="the checker reports loss, and Aforo has noticed it",
)
def torn_log_control(run: Run) -> None:
    """Without fsync before the reply a power cut loses what was answered; a checker that does not say so proves nothing."""
    servers = run.own_servers()
    stage = run.stage(servers)
    log = AppendOnly(servers.valkey)
    cuts = run.scaled(5)
    with run.traffic(stage) as traffic:
        for _ in range(cuts):
            stage.redis.config_set("appendfsync", "everysec")
            time.sleep(run.random.uniform(0.5, 1.5))
            synced = log.size()
            time.sleep(TORN_SECONDS)
            servers.valkey.kill()
            log.cut_back_to(synced)
            servers.valkey.start()
        time.sleep(1)
    run.injected(cuts)
    findings, found = run.inspect(stage, traffic.history)
    run.require(findings.counts[checker.LOST] > 0, "the checker does not report what everysec has lost")
    run.require("redis_went_back" in found.incidents, f"Aforo has not noticed it: {set(found.incidents)}")


@case(
    "memory-full",
    fault="memory full",
    injected="maxmemory lowered below what is used, 10 times while running",
    passes="503s, then drains to 0",
    in_tests=0.1,
)
def memory_full(run: Run) -> None:
    """Nothing can be written down, so nothing is accepted; what was is applied all the same."""
    servers = run.own_servers()
    stage = run.stage(servers)
    times = run.scaled(10)
    with run.traffic(stage) as traffic:
        for _ in range(times):
            time.sleep(run.random.uniform(0.3, 1.0))
            stage.redis.config_set("maxmemory", "1mb")
            _comes(traffic.history, MAYBE)
            run.recovered(stage.drained())
            stage.redis.config_set("maxmemory", "0")
            _comes(traffic.history, ACCEPTED)
    run.injected(times)
    run.check(stage, traffic.history)
    statuses = {call.status for call in traffic.history.calls if call.fate != ACCEPTED}
    run.require(statuses == {503}, f"who was not accepted was answered {statuses}")


def _comes(history: History, fate: str) -> None:
    """Wait for a call with this fate that has not been answered yet."""
    seen = len(history.calls)
    until(lambda: any(call.fate == fate for call in history.calls[seen:]), 15, f"a call is {fate}")
