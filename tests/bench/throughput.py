"""How many reservations a second: Aforo over HTTP, its peers, the database by itself, and the limits of both ends.

Counted is what stands in the ledger, over the time from the first request until nothing waits any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tests.bench.bench import Bench
from tests.bench.data import Block, Books
from tests.bench.footprint import processor_seconds
from tests.bench.peers.database import pgbench, setwise
from tests.bench.stage import BenchFailed
from tests.bench.workload import HOT, MANY, SESSIONS, TITLES, Requests, order_of, reserving

CONNECTIONS = 64
WARM_CONNECTIONS = 16
AFORO, QUEUED, DIRECT, LOCKS, LOCKS_AT_ONCE, SETWISE, FLOOR, FALCON = "A", "B", "C", "D", "D1", "E", "F", "F1"
WHAT = {
    AFORO: "Aforo over HTTP, accepted and applied",
    QUEUED: "a Celery task a request, each a transaction under the row lock",
    DIRECT: "a synchronous endpoint that takes the row lock",
    LOCKS: "pgbench: the same transaction, no HTTP, no Python",
    LOCKS_AT_ONCE: "pgbench: the same rows in one statement",
    SETWISE: "set-wise INSERT … SELECT, no queue",
    FLOOR: "an empty 202 on the API's server (bare ASGI)",
    FALCON: "an empty 202 with Falcon",
}


class Http(Protocol):
    """Who takes reservations over HTTP."""

    url: str
    books: Books

    def new_sessions(self, count: int) -> Block: ...
    def applied(self, block: Block) -> int: ...
    def drained(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Applied:
    """How many commands the ledger holds, how many a second that makes, and how many a second were accepted while they came."""

    count: int
    rate: float
    accepted: float


def one_round(bench: Bench, number: int) -> None:
    """Everybody once, one after the other, so that a noisy machine meets all alike."""
    stage = bench.stage
    for kind in bench.size.kinds:
        bench.say(f" round {number + 1}, {TITLES[kind]}")
        aforo(bench, kind)
        tasks = over_http(bench, stage.queued, kind, _seconds_for_tasks(bench, kind))
        bench.book.add(f"{QUEUED} accepted {kind}", tasks.accepted)
        bench.note(f"{QUEUED} {kind}", tasks.rate)
        bench.note(f"{DIRECT} {kind}", over_http(bench, stage.direct, kind).rate)
        for name in (LOCKS, LOCKS_AT_ONCE):
            block = _emptied(bench, stage.locks, kind)
            rate = pgbench(stage.locks_url, block, kind, bench.size.seconds, stage.folder, at_once=name == LOCKS_AT_ONCE)
            bench.note(f"{name} {kind}", rate)
    bench.say(f" round {number + 1}, limits")
    for kind in (HOT, MANY):
        bench.note(f"{SETWISE} {kind}", setwise(stage.setwise, _emptied(bench, stage.setwise, kind), bench.size.seconds))
    floors(bench)


def warm(bench: Bench) -> None:
    """Everybody has opened their connections."""
    for who in (bench.stage.aforo, bench.stage.queued, bench.stage.direct):
        block = who.new_sessions(SESSIONS[MANY])
        bench.load.closed(who.url, reserving(order_of(MANY, block.first, block.count, bench.seed)), 1, WARM_CONNECTIONS)
        who.drained()


def aforo(bench: Bench, kind: str) -> None:
    """Aforo, and the processor time that each of its parts takes for a command."""
    stage = bench.stage
    block = stage.aforo.new_sessions(SESSIONS[kind])
    stage.settle()
    requests = reserving(order_of(kind, block.first, block.count, bench.seed))
    before = processor_seconds(bench)
    found = applied(bench, stage.aforo, block, requests, bench.size.seconds, CONNECTIONS)
    for name, after in processor_seconds(bench).items():
        bench.book.add(f"cpu {name} {kind}", 1e6 * (after - before[name]) / found.count)
    bench.book.add(f"{AFORO} accepted {kind}", found.accepted)
    bench.book.add(f"a batch {kind}", found.count / stage.aforo.books.batches(block))
    bench.note(f"{AFORO} {kind}", found.rate)


def floors(bench: Bench) -> None:
    """The same requests, answered with nothing."""
    requests = reserving([100_001])
    for name, floor in ((FLOOR, "floor"), (FALCON, "falcon")):
        bench.note(name, bench.load.closed(bench.stage.floors[floor].url, requests, bench.size.part_seconds, CONNECTIONS).rate)


def over_http(bench: Bench, who: Http, kind: str, seconds: float | None = None) -> Applied:
    """Reservations, accepted and applied."""
    block = who.new_sessions(SESSIONS[kind])
    bench.stage.settle()
    requests = reserving(order_of(kind, block.first, block.count, bench.seed))
    return applied(bench, who, block, requests, seconds or bench.size.seconds, CONNECTIONS)


def applied(bench: Bench, who: Http, block: Block, requests: Requests, seconds: float, connections: int) -> Applied:
    """Send for so long, and wait until nothing waits. Raises BenchFailed if the ledger does not hold what was accepted."""
    sent = bench.load.closed(who.url, requests, seconds, connections)
    ended = who.drained()
    count = who.applied(block)
    good = (sent.answered - sent.refused) * requests.commands
    if not good <= count <= good + connections * requests.commands:
        raise BenchFailed(f"{good} were accepted with {connections} under way at the end, and {count} are in the ledger")
    if not who.books.is_sound(block):
        raise BenchFailed("counters and reservations disagree")
    return Applied(count, count / (ended - sent.started), good / sent.seconds)


def _emptied(bench: Bench, books: Books, kind: str) -> Block:
    books.emptied()
    block = books.sessions(SESSIONS[kind])
    bench.stage.settle()
    return block


def _seconds_for_tasks(bench: Bench, kind: str) -> float:
    """Its endpoint takes several times what its worker does: so long that sending and working off take as long as for others."""
    done, taken = bench.book.of(f"{QUEUED} {kind}"), bench.book.of(f"{QUEUED} accepted {kind}")
    if done is None or taken is None:
        return 1.0
    return max(1.0, bench.size.seconds * done.median / taken.median)
