"""The number of partitions is changed to and fro under load, and whoever changes it is killed: nothing is lost, order holds."""

from __future__ import annotations

import subprocess
import time

from tests.fault.suite.books import PARTITIONS
from tests.fault.suite.case import Run, case, quantile
from tests.fault.suite.stage import Stage
from tests.support.processes import ROOT, python_program

PER_SECOND = 300
CHANGE_SECONDS = 90
POINTS = ("intended", "shut", "emptied", "without_heads", "switched", "opening", "opened")
NUMBERS = (4, 8, 3, 24, 7)


@case(
    "repartition",
    fault="partitions are changed",
    injected="under load: to 4, 8, 3, 24, 7 and back to 16 partitions; each time whoever changes it is killed at a point chosen "
    "by chance and begins anew",
    passes="the check; no incident; no process restarted",
)
def repartition(run: Run) -> None:
    """Clients meet 503 for as long as the door is shut, and everything that was accepted keeps its number."""
    stage = run.stage(workers=2)
    before = {name: stage.pid(name) for sort in ("api", "worker", "sweeper") for name in stage.names(sort)}
    shut: list[float] = []
    with run.traffic(stage, per_second=PER_SECOND) as traffic:
        for number in (*NUMBERS[: run.scaled(len(NUMBERS), least=2)], PARTITIONS):
            time.sleep(run.random.uniform(0.5, 1.5))
            run.require(_changed(stage, number, run.random.choice(POINTS)) < 0, "it was not killed")
            started = time.monotonic()
            run.require(_changed(stage, number) == 0, f"the change to {number} failed")
            shut.append(time.monotonic() - started)
            run.injected()
        time.sleep(1.0)
    found = run.check(stage, traffic.history)
    run.require(not found.incidents, f"incidents: {set(found.incidents)}")
    run.require({name: stage.pid(name) for name in before} == before, "somebody was restarted")
    run.recovered(*shut)
    run.note(f"ended after a kill within {quantile(shut, 0.5):.2f} s, at most {max(shut):.2f} s, the command's start included")


def _changed(stage: Stage, partitions: int, crash_at: str | None = None) -> int:
    """`aforo repartition`. Its exit status."""
    armed = {} if crash_at is None else {"AFORO_CRASH_AT": crash_at}
    environment = {**stage.deployment.operator_environment, **armed}
    program = python_program("repartition", environment, "-m", "ops.cli", "repartition", str(partitions))
    done = subprocess.run(
        program.command, env=program.environment, cwd=ROOT, capture_output=True, timeout=CHANGE_SECONDS, check=False
    )
    return done.returncode
