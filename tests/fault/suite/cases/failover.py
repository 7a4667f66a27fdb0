"""Second servers that take over under load: what was acknowledged is there; and the controls, where it is not, and is noticed."""

from __future__ import annotations

import time
from collections.abc import Collection

from ops import verify
from tests.fault.suite import checker
from tests.fault.suite.books import Books, partition_of
from tests.fault.suite.case import Run, case, quantile
from tests.fault.suite.clients import Crowd, Venue, wish
from tests.fault.suite.history import ACCEPTED, History
from tests.fault.suite.stage import Stage
from tests.support.http import Api
from tests.support.replicas import NAME, commits_wait_for, coupled, paired
from tests.support.waiting import until

PER_SECOND = 400
LONGER_THAN_ANY_TIMEOUT_SECONDS = 32  # a transaction may take 30
LAG_SECONDS = 1.0
WAITING = 20
NOTICED_SECONDS = 30.0
MISSING = "accepted commands are missing"


@case(
    "postgres-failover",
    fault="Postgres failover",
    injected="with a synchronous standby, under load: the standby hears nothing for 32 s, the first server is killed, the "
    "standby promoted",
    passes="every 202 applied; no outcome that was shown is lost or changed; no incident",
)
def postgres_failover(run: Run) -> None:
    """A commit that the standby does not have is not acknowledged, however long that takes, and so nothing of it is seen."""
    pair = run.entered(paired(run.own_servers()))
    commits_wait_for(pair.servers.owner_url, NAME)
    stage = run.stage(deployment=pair.deployment)
    with run.traffic(stage, per_second=PER_SECOND) as traffic:
        time.sleep(run.random.uniform(1.0, 2.0))
        pair.cut_the_line()
        time.sleep(run.scaled(LONGER_THAN_ANY_TIMEOUT_SECONDS))
        pair.fail_over()
        back = time.time() * 1000
        stage.caught_up(back)
        time.sleep(1.0)
    run.injected()
    found = run.check(stage, traffic.history)
    run.recovered_after([back], found)
    run.require(not found.incidents, f"incidents: {set(found.incidents)}")


@case(
    "postgres-failover-control",
    fault="control: Postgres failover without waiting",
    injected="with an asynchronous standby, under load: the standby hears nothing for a second, the first server is killed, the "
    "standby promoted",
    passes="the checker reports loss; every session concerned has an incident, verify names its missing numbers, and no lost "
    "outcome is shown any more; nothing else is wrong with what Postgres has",
)
def postgres_failover_control(run: Run) -> None:
    """Outcomes were shown that the promoted server never heard of. That cannot be mended, but it must not pass unnoticed."""
    pair = run.entered(paired(run.own_servers()))
    stage = run.stage(deployment=pair.deployment)
    venues = run.venues(stage)
    with run.traffic(stage, venues, per_second=PER_SECOND) as traffic:
        time.sleep(run.random.uniform(1.0, 2.0))
        pair.cut_the_line()
        time.sleep(LAG_SECONDS)
        pair.fail_over()
        back = time.time() * 1000
        stage.caught_up(back)
        until(lambda: _incidents(stage) & {"postgres_went_back", "seq_gap"}, NOTICED_SECONDS, "it is noticed")
        time.sleep(1.0)
    run.injected()
    last = Crowd(stage.url)  # so that every session has gone on, and shows what is missing before
    last.send([wish(venue.id, "cancel", "nobody@example.org") for venue in venues])
    findings, found = run.inspect(stage, traffic.history, last.history)
    run.recovered_after([back], found)
    lost = _lost(found, traffic.history)
    run.require(lost, "nothing was lost, so nothing was tried")
    run.require(findings.counts[checker.LOST] > 0, "the checker does not report what was lost")
    run.require(not findings.counts[checker.OVERBOOKED] + findings.counts[checker.OUTCOME], f"also: {findings.lines()}")
    _is_noticed(run, stage, lost)


def _lost(found: Books, history: History) -> dict[str, int]:
    """The sessions of jobs that clients were told of, and that the ledger does not have."""
    rows = {row.job for row in found.rows()}
    return {call.job.id: call.job.session for call in history.calls if call.job is not None and call.job.id not in rows}


def _is_noticed(run: Run, stage: Stage, lost: dict[str, int]) -> None:
    sessions = set(lost.values())
    known = {session for (session,) in stage.deployment.sql("SELECT session_id FROM incidents WHERE session_id IS NOT NULL")}
    run.require(sessions <= known, f"sessions without an incident: {sessions - known}")
    report = verify.run(stage.deployment.database_url, stage.deployment.redis_url)
    run.require(report.gaps >= len(sessions), f"verify names {report.gaps} gaps in {len(sessions)} sessions")
    run.result.failures += [f"aforo verify: {what}" for what in report.differences if MISSING not in what]
    with Api(stage.url) as api:
        shown = [job for job in lost if api.get(f"/api/jobs/{job}").status_code != 404]
    run.require(not shown, f"{len(shown)} of {len(lost)} lost jobs are still shown: {shown[:3]}")
    run.note(f"{len(lost)} shown and lost, in {len(sessions)} sessions; incidents: {', '.join(sorted(_incidents(stage)))}")


def _incidents(stage: Stage) -> set[str]:
    return {kind for (kind,) in stage.deployment.sql("SELECT kind FROM incidents")}


@case(
    "valkey-failover",
    fault="Valkey failover",
    injected="with AFORO_REDIS_REPLICAS=1, under load: nobody drains, the replica hears nothing, the first server is killed, the "
    "replica promoted, the address moved; then the first one comes back as the replica",
    passes="every 202 applied; none is given while no replica confirms it; accepting goes on when one does",
)
def valkey_failover(run: Run) -> None:
    """What readers see may go back for a moment: publishing waits for no replica, and is made good from the ledger."""
    couple = run.entered(coupled(run.own_servers()))
    stage = run.stage(deployment=couple.deployment, redis_replicas="1")
    venues = run.venues(stage)
    with run.traffic(stage, venues, per_second=PER_SECOND) as traffic:
        time.sleep(run.random.uniform(1.0, 2.0))
        with stage.stopped("worker", "sweeper"):
            time.sleep(0.3)  # so that something waits, of which the replica knows
            couple.cut_the_line()
            refused = _crowd(stage, venues)
            couple.fail_over()
        moved = time.time() * 1000
        couple.come_back()
        goes_on = len(traffic.history.calls)
        until(lambda: any(call.fate == ACCEPTED for call in traffic.history.calls[goes_on:]), 30, "commands are accepted again")
        time.sleep(1.0)
    run.injected()
    findings, found = run.inspect(stage, traffic.history, refused)
    run.recovered_after([moved], found)
    told = {(call.status, call.code) for call in refused.calls}
    run.require(told <= {(503, "unconfirmed"), (503, "unavailable")}, f"without a replica: {told}")
    run.require("redis_went_back" not in found.incidents, "an alarm about what nobody was promised")
    run.result.failures += [line for line in findings.lines() if not line.startswith(checker.WENT_BACK)]
    report = verify.run(stage.deployment.database_url, stage.deployment.redis_url)
    run.result.failures += [f"aforo verify: {difference}" for difference in report.differences]
    median_ms = quantile(traffic.history.latencies(), 0.5) * 1000
    run.note(f"accepted with p50 {median_ms:.0f} ms; seen to go back {findings.counts[checker.WENT_BACK]} times")


@case(
    "valkey-failover-control",
    fault="control: Valkey failover without waiting",
    injected="the same with AFORO_REDIS_REPLICAS=0",
    passes="the checker reports what was accepted and not yet applied as lost, and Aforo has noticed it",
)
def valkey_failover_control(run: Run) -> None:
    """A 202 tells of one server's disk, and is lost with the server."""
    couple = run.entered(coupled(run.own_servers()))
    stage = run.stage(deployment=couple.deployment)
    venues = run.venues(stage)
    with run.traffic(stage, venues, requests=run.scaled(1000, least=300)) as before:
        before.join()
    stage.drained()
    until(lambda: couple.replica.has_all_of(couple.deployment.redis_owner_url), 15, "the replica has everything")
    with stage.stopped("worker", "sweeper"):
        couple.cut_the_line()
        doomed = _crowd(stage, venues)
        couple.fail_over()
    with run.traffic(stage, venues, requests=run.scaled(1000, least=300)) as after:
        after.join()
    run.injected()
    findings, found = run.inspect(stage, before.history, doomed, after.history)
    accepted = [call for call in doomed.calls if call.fate == ACCEPTED]
    run.require(len(accepted) == len(doomed.calls), "not all were accepted")
    run.require(findings.counts[checker.LOST] == len(accepted), f"{findings.counts[checker.LOST]} lost of {len(accepted)}")
    run.require(findings.counts.total() == len(accepted), f"also: {findings.lines()}")
    _every_lane_is_noticed(run, stage, {partition_of(venue.id) for venue in venues})
    run.note(f"incidents: {', '.join(sorted(set(found.incidents)))}")


def _crowd(stage: Stage, venues: list[Venue]) -> History:
    """Commands for every session while nothing of them reaches the replica."""
    crowd = Crowd(stage.url)
    crowd.send([wish(venue.id, "reserve", f"waiting-{n}@example.org") for n in range(WAITING) for venue in venues])
    return crowd.history


def _every_lane_is_noticed(run: Run, stage: Stage, lanes: Collection[int]) -> None:
    rows = stage.deployment.sql("SELECT DISTINCT partition FROM incidents WHERE kind = 'redis_went_back'")
    missing = set(lanes) - {partition for (partition,) in rows}
    run.require(not missing, f"nothing was noticed in partitions {sorted(missing)}")
