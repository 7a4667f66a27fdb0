"""Controls: guards are taken away. What is left must hold; where nothing is left it must break, and the checker must say so.

A suite that cannot fail would prove nothing. These count as passed when they do fail.
"""

from __future__ import annotations

import time
from typing import Any

from tests.fault.suite import checker
from tests.fault.suite.case import Run, case
from tests.fault.suite.checker import Findings
from tests.fault.suite.clients import Manners, Venue
from tests.fault.suite.rigged import Rig
from tests.fault.suite.stage import Stage
from tests.support.http import Api
from tests.support.waiting import until

# From the outermost: the first keeps a second worker from even looking, the last from writing.
GUARDS = ("partition lock", "row lock", "one live reservation a person", "ledger keys")
DROP = {
    "row lock": "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('load_batch'::regproc), 'FOR UPDATE', ''); END $$",
    "one live reservation a person": "DROP INDEX reservations_one_live_per_person",
    "ledger keys": "ALTER TABLE jobs DROP CONSTRAINT jobs_pkey, DROP CONSTRAINT jobs_one_per_seq",
    "constraint": "ALTER TABLE sessions DROP CONSTRAINT sessions_never_overbooked",
}
HARM = (checker.LOST, checker.DOUBLE, checker.OVERBOOKED)
PROGRAMS = ("worker", "worker-2", "sweeper")
BUSY = Rig(at=("mid_transaction",), do="linger")  # so that two are sure to meet


@case(
    "control-keys",
    fault="control: guards taken away from outside",
    injected="no partition lock; no row lock either; no unique person either; several workers at each partition",
    passes="nothing is lost, doubled or overbooked each time (order is the partition lock's to keep)",
    in_tests=None,
)
def control_keys(run: Run) -> None:
    """Whatever is left of the guards is enough."""
    for count in range(1, len(GUARDS)):
        off = GUARDS[:count]
        harm = _harm(_contended(run, off))
        run.note(f"without {', '.join(off)}: {harm or 'no harm'}")
        run.require(not harm, f"without {', '.join(off)} there was harm: {harm}")


@case(
    "control-no-guards",
    fault="control: no guards at all (must overbook)",
    injected="no locks, no unique person, no keys of the ledger; several workers at each partition",
    passes="places are sold twice, and the checker says so",
    in_tests=0.2,
)
def control_no_guards(run: Run) -> None:
    """The proof that the others prove anything."""
    findings = _contended(run, GUARDS)
    run.require(findings.counts[checker.OVERBOOKED] > 0, "with all guards off nothing was overbooked")
    run.require(findings.counts[checker.DOUBLE] > 0, "with all guards off nothing was applied twice")


@case(
    "control-row-lock",
    fault="control: row lock by itself (must overbook without)",
    injected="two workers, each of which sees every second command, with no other guard; with the row lock, then without",
    passes="nothing is overbooked with it; places are sold twice without it",
    in_tests=None,
)
def control_row_lock(run: Run) -> None:
    """Two workers with different commands of the same session: no key can tell, only the lock keeps them apart."""
    others = tuple(guard for guard in GUARDS if guard != "row lock")
    for off in (others, GUARDS):
        rigs = {name: Rig(at=BUSY.at, do=BUSY.do, off=off, half=half) for half, name in enumerate(PROGRAMS[:2])}
        harm = _harm(_run(run, off, rigs, workers=2, pool=1, sweepers=0))
        _judge(run, "row lock", off is GUARDS, harm)


@case(
    "control-constraint",
    fault="control: constraint by itself (must overbook without)",
    injected="a decision that sells a place too many; with the constraint, then without",
    passes="nothing is overbooked with it, places are sold twice without it",
    in_tests=None,
)
def control_constraint(run: Run) -> None:
    """A mistake of our own meets the database's last word."""
    for off in ((), ("constraint",)):
        rigs = {name: Rig(miscounts=True) for name in PROGRAMS}
        harm = _harm(_run(run, off, rigs, per_second=15))  # what the constraint stops is tried four times before it is set aside
        _judge(run, "constraint", bool(off), harm)


def _judge(run: Run, guard: str, is_off: bool, harm: dict[str, int]) -> None:
    run.note(f"{'without' if is_off else 'with'} the {guard}: {harm or 'no harm'}")
    if is_off:
        run.require(harm.get(checker.OVERBOOKED), f"without the {guard} nothing was overbooked")
    else:
        run.require(checker.OVERBOOKED not in harm, f"with the {guard} there was harm: {harm}")


def _contended(run: Run, off: tuple[str, ...]) -> Findings:
    """Several workers at each partition, and every bell rung for each of them."""
    rig = Rig(at=BUSY.at, do=BUSY.do, off=off)
    return _run(run, off, dict.fromkeys(PROGRAMS, rig), workers=2, pool=2)


def _run(run: Run, off: tuple[str, ...], rigs: dict[str, Rig], per_second: float = 100, **options: Any) -> Findings:
    """A short run on a stage without these guards; what the checker finds."""
    stage = run.stage(rigs=rigs, **options)
    for guard in off:
        if guard in DROP:
            stage.deployment.sql(DROP[guard])
    manners = Manners(cancels=0.1, waits=0)
    with run.traffic(stage, _few_places(stage), per_second=per_second, connections=16, manners=manners) as traffic:
        end = time.monotonic() + run.scaled(20, least=4)
        while time.monotonic() < end:
            stage.ring(4)
            run.injected()
            time.sleep(0.1)
    _drained(stage)
    return run.inspect(stage, traffic.history)[0]


def _few_places(stage: Stage) -> list[Venue]:
    with Api(stage.url) as api:
        return [Venue(api.new_session(capacity=capacity), 2000) for capacity in (2, 5, 10, 20, 40, 80)]


def _drained(stage: Stage) -> None:
    def rung() -> bool:
        stage.ring(1)
        time.sleep(0.1)
        return stage.waiting() == 0

    until(rung, 90, "nothing waits in any mailbox")


def _harm(findings: Findings) -> dict[str, int]:
    return {sort: findings.counts[sort] for sort in HARM if findings.counts[sort]}
