"""Valkey put back to an older log, or emptied, also while drains hold batches: what was lost is noticed, the rest goes on.

What Valkey forgets before it was applied is gone; more cannot be promised. Promised is that it is noticed, and that nothing
which is accepted afterwards is lost, skipped or applied twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2

from ops import verify
from tests.fault.suite import checker
from tests.fault.suite.books import partition_of
from tests.fault.suite.case import Run, case
from tests.fault.suite.clients import Crowd, Traffic, Venue, wish
from tests.fault.suite.history import ACCEPTED, History
from tests.fault.suite.stage import Stage
from tests.support.damage import AppendOnly
from tests.support.stack import Servers
from tests.support.waiting import until

WAITING = 20  # commands of each session that wait when Valkey forgets
HOLDING = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
AND application_name = 'aforo'"""
NOTICED_SECONDS = 30.0
MISSING = "accepted commands are missing"


@dataclass(slots=True)
class Theatre:
    """The stack, and what its clients saw. `doomed`: the ids of jobs that waited when Valkey forgot, and that nobody has applied;
    `held`: how many drains held a batch meanwhile, over all times."""

    run: Run
    servers: Servers
    stage: Stage
    venues: list[Venue]
    log: AppendOnly
    histories: list[History] = field(default_factory=list)
    doomed: set[str] = field(default_factory=set)
    held: int = 0

    def forget(self, number: int) -> None:
        """Let work be done, let commands wait, kill Valkey, give it another past, and let work be done again."""
        older = self.log.copy_to(self.run.folder("older") / "log")
        with self._traffic(number, "before") as before:
            before.join()
        self.stage.drained()
        just_before = self.log.copy_to(self.run.folder("before") / "log")
        seen = self._last_incident()
        with self._drains_hold() if number % 2 else self.stage.stopped("worker", "sweeper"):
            waiting = self._accepted_and_waiting(number)
            self.held += self._holding() if number % 2 else 0
            self.servers.valkey.kill()
            self._give(None if number % 3 == 2 else (older, just_before)[number % 3])
            self.servers.valkey.start()
            after = self._traffic(number, "after").__enter__()
            until(lambda: any(call.fate == ACCEPTED for call in after.history.calls), 30, "commands are accepted again")
        after.join()
        self.stage.drained()
        self.histories += [before.history, waiting, after.history]
        self._expect_notice(waiting, seen)

    def _give(self, past: Path | None) -> None:
        if past is None:
            self.log.empty()
        else:
            self.log.put_back(past)

    def _traffic(self, number: int, when: str) -> Traffic:
        seed = f"{self.run.seed}/{number} {when}"
        return Traffic(self.stage.url, self.venues, seed, requests=self.run.scaled(1000, least=300))

    def _accepted_and_waiting(self, number: int) -> History:
        crowd = Crowd(self.stage.url)
        names = [f"waiting-{number}-{n}@example.org" for n in range(WAITING)]
        crowd.send([wish(venue.id, "reserve", name) for name in names for venue in self.venues])
        if number % 2:
            until(self._holding, 15, "a drain holds a batch")
        return crowd.history

    # -- drains ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _drains_hold(self) -> Iterator[None]:
        """Whoever drains has read its batch, and waits for the rows of its sessions."""
        with closing(psycopg2.connect(self.stage.deployment.owner_url)) as connection:
            connection.cursor().execute("SELECT 1 FROM sessions FOR UPDATE")
            yield

    def _holding(self) -> int:
        return self.stage.deployment.sql(HOLDING)[0][0]

    # -- what was lost, and who knows ------------------------------------------------------------------------------------

    def _expect_notice(self, waiting: History, seen: int) -> None:
        """Every partition of which something was lost has an incident, at the latest when who accepted it accepts again."""
        jobs = {call.job.id: call.job.session for call in waiting.calls if call.job is not None}
        rows = self.stage.deployment.sql("SELECT id::text FROM jobs WHERE id = ANY(%s::uuid[])", list(jobs))
        lost = jobs.keys() - {job for (job,) in rows}
        self.doomed |= lost
        concerned = {partition_of(jobs[job]) for job in lost}
        crowd = Crowd(self.stage.url)
        self.histories.append(crowd.history)

        def is_noticed() -> bool:
            rows = self.stage.deployment.sql("SELECT DISTINCT partition FROM incidents WHERE id > %s", seen)
            missing = concerned - {partition for (partition,) in rows}
            if missing:
                crowd.send([wish(v.id, "cancel", "nobody@example.org") for v in self.venues if partition_of(v.id) in missing])
            return not missing

        until(is_noticed, NOTICED_SECONDS, "every loss is noticed")

    def _last_incident(self) -> int:
        return self.stage.deployment.sql("SELECT coalesce(max(id), 0) FROM incidents")[0][0]


@case(
    "rollback",
    fault="rollback",
    injected="12 times, with commands waiting: Valkey killed and put back to an older log, to the log of just before, or "
    "emptied; every second time while drains hold batches",
    passes="every loss leads to an incident of its partition; verify names what is missing or renumbered; nothing accepted "
    "afterwards is lost or skipped",
)
def rollback(run: Run) -> None:
    """What is counted as lost here had waited and was forgotten, and nothing else may be."""
    servers = run.own_servers()
    stage = run.stage(servers)
    theatre = Theatre(run, servers, stage, run.venues(stage), AppendOnly(servers.valkey))
    times = run.scaled(12, least=6)
    for number in range(times):
        theatre.forget(number)
    run.injected(times)
    findings, found = run.inspect(stage, *theatre.histories)
    report = verify.run(stage.deployment.database_url, stage.deployment.redis_url)
    lost = findings.counts[checker.LOST]
    run.require(theatre.doomed, "nothing was lost, so nothing was tried")
    run.require(theatre.held, "no drain held a batch")
    run.require(lost == len(theatre.doomed), f"{lost} lost, but {len(theatre.doomed)} waited")
    gaps = findings.counts[checker.GAP]
    run.require(gaps == report.gaps, f"{gaps} gaps in the ledger, and verify names {report.gaps}")
    run.result.failures += [line for line in findings.lines() if not line.startswith((checker.LOST, checker.GAP))]
    run.result.failures += [f"aforo verify: {what}" for what in report.differences if MISSING not in what]
    run.require(report.renumbered > 0 and report.notes, "verify names nothing that was renumbered")
    kinds = ", ".join(sorted(set(found.incidents)))
    run.note(f"all that is lost had waited when Valkey forgot; {report.renumbered} renumbered; incidents: {kinds}")
