"""How many reservations a second: Aforo over HTTP, its peers, the database by itself, and the limits of both ends.

Counted is what stands in the ledger, over the time from the first request until nothing waits any more.
"""

from __future__ import annotations

from typing import Protocol

from tests.bench.bench import Bench
from tests.bench.data import Block, Books
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


def one_round(bench: Bench, number: int) -> None:
    """Everybody once, one after the other, so that a noisy machine meets all alike."""
    stage = bench.stage
    for kind in bench.size.kinds:
        bench.say(f" round {number + 1}, {TITLES[kind]}")
        bench.note(f"{AFORO} {kind}", over_http(bench, stage.aforo, kind))
        bench.note(f"{QUEUED} {kind}", over_http(bench, stage.queued, kind, _seconds_for_tasks(bench, kind), f"{QUEUED} taken"))
        bench.note(f"{DIRECT} {kind}", over_http(bench, stage.direct, kind))
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


def aforo_alone(bench: Bench, kind: str) -> None:
    """Aforo over sessions that its peers are not measured with."""
    bench.note(f"{AFORO} {kind}", over_http(bench, bench.stage.aforo, kind))


def floors(bench: Bench) -> None:
    """The same requests, answered with nothing."""
    requests = reserving([100_001])
    for name, floor in ((FLOOR, "floor"), (FALCON, "falcon")):
        bench.note(name, bench.load.closed(bench.stage.floors[floor].url, requests, bench.size.part_seconds, CONNECTIONS).rate)


def over_http(bench: Bench, who: Http, kind: str, seconds: float | None = None, taken: str | None = None) -> float:
    """Reservations a second, accepted and applied. `taken`: the name under which to keep how many a second were accepted."""
    block = who.new_sessions(SESSIONS[kind])
    bench.stage.settle()
    requests = reserving(order_of(kind, block.first, block.count, bench.seed))
    rate, accepted = applied_rate(bench, who, block, requests, seconds or bench.size.seconds, CONNECTIONS)
    if taken:
        bench.book.add(taken, accepted)
    return rate


def applied_rate(
    bench: Bench, who: Http, block: Block, requests: Requests, seconds: float, connections: int
) -> tuple[float, float]:
    """Commands a second in the ledger until nothing waits, and commands accepted a second while they were sent.

    Raises BenchFailed if the ledger does not hold what was accepted.
    """
    sent = bench.load.closed(who.url, requests, seconds, connections)
    ended = who.drained()
    applied = who.applied(block)
    good = (sent.answered - sent.refused) * requests.commands
    if not good <= applied <= good + connections * requests.commands:
        raise BenchFailed(f"{good} were accepted with {connections} under way at the end, and {applied} are in the ledger")
    if not who.books.is_sound(block):
        raise BenchFailed("counters and reservations disagree")
    return applied / (ended - sent.started), good / sent.seconds


def _emptied(bench: Bench, books: Books, kind: str) -> Block:
    books.emptied()
    block = books.sessions(SESSIONS[kind])
    bench.stage.settle()
    return block


def _seconds_for_tasks(bench: Bench, kind: str) -> float:
    """Its endpoint takes several times what its worker does: so long that sending and working off take as long as for others."""
    done, taken = bench.book.of(f"{QUEUED} {kind}"), bench.book.of(f"{QUEUED} taken")
    if done is None or taken is None:
        return 1.0
    return max(1.0, bench.size.seconds * done.median / taken.median)
