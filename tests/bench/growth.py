"""`make bench GROWTH=1`: the same work on ever more data, from a thousand reservations to ten million.

A second Aforo with a thousand reservations runs on the same servers and is measured in turn with the large one, so that a noisy
machine, or one that has become slower, is not taken for growth. Commands go to a hundred sessions in both, chosen over all.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.bench.arithmetic import percentile, spread
from tests.bench.bench import Bench
from tests.bench.book import Growth
from tests.bench.data import Block, Books
from tests.bench.stage import Aforo
from tests.bench.throughput import CONNECTIONS
from tests.bench.workload import reading, reserving

STEPS = ((1_000, 100), (10_000, 1_000), (100_000, 10_000), (1_000_000, 50_000), (10_000_000, 100_000))
SMALL = STEPS[0]
TOUCHED_SESSIONS = 100  # in both, so that a batch is the same work but for the size of the tables
ROUNDS = 3
ACCEPT_SECONDS = 2
READ_RATE = 100.0
READ_SECONDS = 4
FILLERS = 2
READS = {"list": "/api/sessions/", "session": "/api/sessions/\x01/"}


def run(bench: Bench, most: int) -> None:
    """Every size up to `most` reservations."""
    stage = bench.stage
    small = stage.another("small", {})
    blocks: list[Block] = []
    for reservations, sessions in STEPS:
        if reservations > most:
            return
        started = time.monotonic()
        _grow(stage.aforo, blocks, reservations, sessions)
        filled = time.monotonic() - started
        bench.say(f" {reservations:,} reservations in {sessions:,} sessions, filled in {filled:.0f} s")
        found = Growth(reservations, sessions, [], [], {name: [] for name in READS}, {name: [] for name in READS}, filled, 0)
        for number in range(ROUNDS):
            small.forget()
            small.books.emptied()
            beside: list[Block] = []
            _grow(small, beside, *SMALL)
            for aforo, where, applied, reads in (
                (stage.aforo, blocks, found.apply, found.read_p99),
                (small, beside, found.apply_beside, found.read_p99_beside),
            ):
                touched = _chosen(where, bench.seed + number)
                applied.append(_apply(bench, aforo, touched, f"{reservations}-{number}-"))
                for name, seconds in _read(bench, aforo, touched).items():
                    reads[name].append(seconds)
        found.bytes = stage.aforo.books.bytes_of("sessions", "reservations", "jobs")
        bench.book.growth.append(found)
        reads = ", ".join(f"{name} {_medians(found.read_p99[name], found.read_p99_beside[name], 1000)} ms" for name in READS)
        bench.say(f"  applied {_medians(found.apply, found.apply_beside, 1)} /s; p99 of reading: {reads} (large, small)")


def _grow(aforo: Aforo, blocks: list[Block], reservations: int, sessions: int) -> None:
    """Bring it to so many reservations and sessions in all, by new sessions with their reservations."""
    before = aforo.books.rows("SELECT count(*) FROM reservations")[0][0]
    new = sessions - sum(block.count for block in blocks)
    each = max(1, new // FILLERS)
    missing = max(0, reservations - before)
    added = [aforo.books.sessions(each) for _ in range(FILLERS)]
    blocks += added
    with ThreadPoolExecutor(FILLERS) as fillers:
        list(fillers.map(lambda block: _fill(aforo, block, missing // FILLERS), added))  # raises what they raise
    aforo.books.rows("VACUUM ANALYZE sessions, reservations, jobs")


def _fill(aforo: Aforo, block: Block, reservations: int) -> None:
    books = Books(aforo.deployment)
    try:
        if reservations:
            books.fill(block, reservations)
    finally:
        books.close()


def _chosen(blocks: Sequence[Block], seed: int) -> list[int]:
    chance = random.Random(seed)
    weights = [block.count for block in blocks]
    places = chance.choices(blocks, weights, k=TOUCHED_SESSIONS)
    return [chance.randrange(block.first, block.last + 1) for block in places]


def _apply(bench: Bench, aforo: Aforo, touched: list[int], label: str) -> float:
    """What waits, applied, a second."""
    aforo.know(*(Block(session, 1) for session in set(touched)))
    bench.stage.settle()
    with aforo.halted("sweeper"):
        with aforo.halted("worker"):
            bench.load.closed(aforo.url, reserving(touched, label=label), ACCEPT_SECONDS, CONNECTIONS)
            time.sleep(0.2)
            backlog = aforo.waiting()
        started = time.monotonic()
        return backlog / (aforo.drained() - started)


def _read(bench: Bench, aforo: Aforo, touched: list[int]) -> dict[str, float]:
    found = {}
    for name, path in READS.items():
        arrived = bench.load.open(
            aforo.url, reading(path, touched), READ_RATE, READ_SECONDS, seed=bench.seed, connections=8, abandon=True
        )
        good = arrived.latencies.get("plain 200", [])
        others = arrived.unsent + sum(map(len, arrived.latencies.values())) - len(good)
        found[name] = percentile([*good, *[math.inf] * others], 0.99)
    return found


def _medians(large: list[float], small: list[float], unit: float) -> str:
    return f"{spread(large).median * unit:,.1f} ({spread(small).median * unit:,.1f})"
