"""Whether a reply waits until its command is on disk, which no kill can show: the page cache survives those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.fault.suite.case import Run, Skipped, case
from tests.fault.suite.clients import Crowd, wish
from tests.fault.suite.stage import Stage
from tests.support.damage import AppendOnly, NotPossible
from tests.support.driving import Driver
from tests.support.processes import Running
from tests.support.syscalls import check_that_pages_tell, order_of, traced, unwritten_pages

CONNECTIONS = 8


@dataclass(slots=True)
class Looker:
    """A stack that only accepts: nobody drains meanwhile, so that whatever is written belongs to the next reply."""

    run: Run
    stage: Stage
    valkey: Running
    crowd: Crowd
    sessions: list[int]

    def send(self, count: int, connections: int) -> None:
        """So many commands of people who have not come yet."""
        done = len(self.crowd.history.calls)
        numbers = range(done, done + count)
        chosen = [wish(self.sessions[n % len(self.sessions)], "reserve", f"guest-{n}@example.org") for n in numbers]
        calls = self.crowd.send(chosen, connections)
        self.run.require(all(call.status == 202 for call in calls), "a command was not accepted")
        self.run.injected(count)

    def by_system_calls(self) -> tuple[int, int]:
        """Replies that left after the fsync, and before it."""
        output = self.run.folder("strace") / "calls"
        with traced(self.valkey.pid, output):
            self.send(self.run.scaled(2000), CONNECTIONS)
        with output.open(encoding="utf-8", errors="replace") as lines:
            order = order_of(lines)
        return order.safe, order.too_early

    def by_unwritten_pages(self) -> tuple[int, int]:
        """The same, as the kernel says after each reply."""
        log = AppendOnly(self.valkey)
        check_that_pages_tell(self.run.folder("probe"))
        counts = [0, 0]
        for _ in range(self.run.scaled(500)):
            self.send(1, 1)
            counts[unwritten_pages(log.tail) > 0] += 1
        return counts[0], counts[1]


@case(
    "fsync-order",
    fault="fsync before reply",
    injected="2,000 commands with the order of Valkey's system calls (strace), and 500 with the pages that the kernel has not "
    "written yet (Linux 6.5) looked at after each reply; then the same with appendfsync everysec",
    passes="every reply leaves after the fsync of its command; with everysec there are replies that do not",
)
def fsync_order(run: Run) -> None:
    """Looked at in two ways, because neither can be had everywhere."""
    servers = run.own_servers()
    stage = run.stage(servers, workers=0, sweepers=0)
    looker = Looker(run, stage, servers.valkey, Crowd(stage.url), [venue.id for venue in run.venues(stage)])
    looker.send(2 * len(looker.sessions), 1)  # from now on their heads are in Redis, and every script call appends
    reasons = [_looked(run, stage, look) for look in (looker.by_system_calls, looker.by_unwritten_pages)]
    if all(reasons):
        raise Skipped("; ".join(map(str, reasons)))
    with Driver(stage.deployment) as driver:
        driver.drain_all()
    run.check(stage, looker.crowd.history)


def _looked(run: Run, stage: Stage, look: Callable[[], tuple[int, int]]) -> str | None:
    """Look with fsync before the reply, and once a second. Why that is not possible here, if it is not."""
    way = look.__name__.replace("_", " ")
    try:
        stage.redis.config_set("appendfsync", "always")
        safe, too_early = look()
        run.require(safe > 0 and too_early == 0, f"{way}: {too_early} replies left before their fsync, {safe} after it")
        run.note(f"{way}: {safe:,} replies left after their fsync, {too_early} before")
        stage.redis.config_set("appendfsync", "everysec")
        safe, too_early = look()
        run.require(too_early > 0, f"{way}, with everysec: all {safe} replies seem to have left after their fsync")
        run.note(f"{way}, with everysec: {safe:,} after, {too_early:,} before")
    except NotPossible as exc:
        run.note(f"{way}: skipped, {exc}")
        return str(exc)
    return None
