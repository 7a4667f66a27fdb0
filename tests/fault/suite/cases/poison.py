"""Entries that are no commands, and commands that kill whoever decides them, among everybody else's."""

from __future__ import annotations

import time

import msgspec

from core.mailbox import key
from ops import verify
from tests.fault.suite.books import PARTITIONS, partition_of
from tests.fault.suite.case import Run, case
from tests.fault.suite.clients import Crowd, wish
from tests.fault.suite.history import Call
from tests.fault.suite.rigged import Rig, strikes
from tests.fault.suite.stage import Stage
from tests.support.http import Api
from tests.support.waiting import until

DELAYED_SECONDS = 5.0
GARBAGE = 100
KILLER = "bad@example.org"


@case(
    "poison",
    fault="poison",
    injected="100 malformed stream entries, and 3 commands that kill whichever process decides them, the sweeper too",
    passes="the check; nobody else waits longer than 5 s; all terminal, what is quarantined can be seen",
    in_tests=0.34,
)
def poison(run: Run) -> None:
    """Each killer takes several processes with it before it is set aside."""
    log = run.folder("deaths") / "deaths.log"
    rig = Rig(at=(f"deciding={KILLER}",), log=str(log))
    stage = run.stage(rigs={"worker": rig, "sweeper": rig})
    venues = run.venues(stage)
    crowd = Crowd(stage.url)
    killers: list[Call] = []
    with run.traffic(stage, venues, per_second=200, connections=16) as traffic:
        for number in range(run.scaled(3)):
            _garbage(run, stage, GARBAGE if not number else 0)
            session = run.random.choice(venues).id
            killers += crowd.send([wish(session, "reserve", KILLER, f"killer-number-{number}")])
            until(lambda killer=killers[-1]: _is_over(stage, killer), 60, "the killer has its outcome")
            time.sleep(1)
    run.injected(GARBAGE + len(killers))
    found = run.check(stage, traffic.history, crowd.history)
    bad = {call.job.id for call in killers if call.job is not None}
    waits = [(row.applied_ms - row.accepted_ms) / 1000 for row in found.rows() if row.job not in bad]
    run.recovered(*((row.applied_ms - row.accepted_ms) / 1000 for row in found.rows() if row.job in bad))
    run.note(f"{len(strikes(log))} processes died of them")
    run.note(f"the longest wait of anybody else: {max(waits):.2f} s; recovery is the killers' own")
    run.require(max(waits) <= run.bound(DELAYED_SECONDS), f"somebody else waited {max(waits):.2f} s")
    _can_be_seen(run, stage, len(killers))


def _garbage(run: Run, stage: Stage, count: int) -> None:
    for _ in range(count):
        fields = run.random.choice(
            (
                {b"x": run.random.randbytes(20)},
                {b"s": b"1"},
                {b"s": b"one", b"c": b"\xff"},
                {b"s": b"1", b"c": run.random.randbytes(40)},
                {b"s": b"7", b"c": msgspec.msgpack.encode([99, "reserve", 1, "id", "open", "h", {}])},
            )
        )
        stage.redis.xadd(key(run.random.randrange(PARTITIONS), "mailbox"), fields)


def _is_over(stage: Stage, call: Call) -> bool:
    assert call.job is not None, f"the killer was not accepted: {call}"
    record = stage.redis.get(key(partition_of(call.job.session), f"job:{call.job.id}"))
    return record is not None and record.startswith(b"d")


def _can_be_seen(run: Run, stage: Stage, killers: int) -> None:
    report = verify.run(stage.deployment.database_url, stage.deployment.redis_url)
    run.require(report.quarantined == killers, f"{report.quarantined} of {killers} killers are quarantined")
    aside = stage.deployment.sql("SELECT count(*) FROM unreadable")[0][0]
    run.require(aside == GARBAGE, f"{aside} of {GARBAGE} unreadable entries were set aside")
    with Api(stage.url) as api:
        for (job,) in stage.deployment.sql("SELECT id::text FROM jobs WHERE outcome = 'quarantined'"):
            run.require(api.job(job)["status"] == "failed", f"job {job} does not say that it failed")
