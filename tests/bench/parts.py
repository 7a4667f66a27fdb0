"""Aforo's parts by themselves: accepting while nobody applies, applying what waits, batches, reading, overload."""

from __future__ import annotations

import threading
import time

from tests.bench.bench import Bench
from tests.bench.data import Block
from tests.bench.throughput import CONNECTIONS, applied
from tests.bench.workload import MANY, SESSIONS, Requests, batches, order_of, reading, reserving

BATCH_COMMANDS = 200
BATCH_CONNECTIONS = 8
WARM_SECONDS = 1
LISTED_SESSIONS = 1000
FEW_RESERVATIONS = 10
FULL_SESSIONS, FULL_RESERVATIONS = 100, 100
SETTLED_SECONDS, SETTLING_SECONDS, SETTLED_BYTES = 0.3, 3.0, 4096
LEDGER_TABLES = ("reservations", "jobs")
WORKERS = ("worker", "sweeper")


def accept_then_apply(bench: Bench, processes: int, kind: str) -> None:
    """Commands taken in while nobody applies them, then applied by so many worker processes while nobody sends; and what the
    waiting and the finished take in memory."""
    aforo, book = bench.stage.aforo, bench.book
    aforo.work_with(processes)
    _warmed(bench)
    block = aforo.new_sessions(SESSIONS[kind])
    bench.stage.settle()
    requests = reserving(order_of(kind, block.first, block.count, bench.seed))
    stored, kept = aforo.books.bytes_of(*LEDGER_TABLES), redis_bytes(bench)
    with aforo.halted("sweeper"):
        with aforo.halted("worker"):
            sent = bench.load.closed(aforo.url, requests, bench.size.part_seconds, CONNECTIONS)
            backlog, queued = aforo.waiting(), redis_bytes(bench)
        started = time.monotonic()
        seconds = aforo.drained() - started
    bench.note(f"accept {kind}", sent.rate)
    bench.note(f"apply {processes} {kind}", backlog / seconds)
    book.add("bytes queued", (queued - kept) / backlog)
    book.add("bytes finished", (redis_bytes(bench) - kept) / backlog)
    book.add("bytes stored", (aforo.books.bytes_of(*LEDGER_TABLES) - stored) / backlog)


def redis_bytes(bench: Bench) -> int:
    """What Valkey holds, less the buffers of its clients and its log; these it counts now and then, so until it is settled."""
    until, before = time.monotonic() + SETTLING_SECONDS, 0
    while True:
        found = bench.stage.aforo.redis.info("memory")
        held = found["used_memory"] - found["mem_clients_normal"] - found.get("mem_aof_buffer", 0)
        if abs(held - before) < SETTLED_BYTES or time.monotonic() > until:
            return held
        before = held
        time.sleep(SETTLED_SECONDS)


def accept_batches(bench: Bench) -> None:
    """Many commands a request while nobody applies them."""
    aforo = bench.stage.aforo
    _, requests = _batches(bench)
    with aforo.halted(*WORKERS):
        sent = bench.load.closed(aforo.url, requests, bench.size.part_seconds, BATCH_CONNECTIONS)
    aforo.drained()
    bench.note("batch accept", sent.rate * BATCH_COMMANDS)


def apply_batches(bench: Bench) -> None:
    """Many commands a request, accepted and applied."""
    block, requests = _batches(bench)
    found = applied(bench, bench.stage.aforo, block, requests, bench.size.part_seconds, BATCH_CONNECTIONS)
    bench.note("batch applied", found.rate)


def _batches(bench: Bench) -> tuple[Block, Requests]:
    block = bench.stage.aforo.new_sessions(SESSIONS[MANY])
    bench.stage.settle()
    return block, batches(order_of(MANY, block.first, block.count, bench.seed), BATCH_COMMANDS)


def prepare_reading(bench: Bench) -> tuple[Block, Block]:
    """Sessions to read: many with a few reservations, some with as many as are shown inline."""
    aforo = bench.stage.aforo
    aforo.forget()
    aforo.books.emptied()
    few, full = aforo.books.sessions(LISTED_SESSIONS), aforo.books.sessions(FULL_SESSIONS)
    aforo.books.fill(few, LISTED_SESSIONS * FEW_RESERVATIONS)
    aforo.books.fill(full, FULL_SESSIONS * FULL_RESERVATIONS)
    aforo.books.rows("VACUUM ANALYZE sessions, reservations, jobs")
    aforo.know(few, full)
    bench.stage.settle()
    return few, full


def read(bench: Bench, few: Block, full: Block) -> None:
    """Each way of reading once."""
    for name, path, block in (
        ("read list", "/api/sessions/", few),
        ("read session", "/api/sessions/\x01/", few),
        ("read list of 100", "/api/sessions/?page_size=100", few),
        ("read session with 100", "/api/sessions/\x01/", full),
    ):
        requests = reading(path, order_of(MANY, block.first, block.count, bench.seed))
        bench.load.closed(bench.stage.aforo.url, requests, WARM_SECONDS, CONNECTIONS)  # what is asked for often is kept
        bench.note(name, bench.load.closed(bench.stage.aforo.url, requests, bench.size.part_seconds, CONNECTIONS).rate)


class Applying:
    """Looks again and again how much is applied, so that a rate can be told for any part of the time."""

    EVERY_SECONDS = 0.25

    def __init__(self, bench: Bench, block: Block) -> None:
        self._books, self._block = bench.stage.aforo.books, block
        self._seen: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Applying:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self.EVERY_SECONDS):
            count = self._books.applied_so_far(self._block)
            self._seen.append((time.monotonic(), count))

    def rate(self, start: float, end: float) -> float:
        """Commands a second between these two moments."""
        seen = [(at, count) for at, count in self._seen if start <= at <= end]
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]) if len(seen) > 1 else 0.0


def _warmed(bench: Bench) -> None:
    """Every process has done its first task."""
    aforo = bench.stage.aforo
    block = aforo.new_sessions(SESSIONS[MANY])
    requests = reserving(order_of(MANY, block.first, block.count, bench.seed))
    bench.load.closed(aforo.url, requests, WARM_SECONDS, CONNECTIONS)
    aforo.drained()
