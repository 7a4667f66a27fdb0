"""`make bench GROWTH=1`: the same work on ever more data, from a thousand reservations to ten million.

A second Aforo with a thousand reservations runs on the same servers and is measured in turn with the large one, so that a noisy
machine, or one that has become slower, is not taken for growth. Commands go to a hundred sessions in both, chosen over all. They
are in use when they are measured, as sessions are that people come to. What the first reading of one takes that nobody has asked
for since it was filled, so that its pages may lie on disk, is told by itself.
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
ROUNDS = 4
WARM_SECONDS = 1
ACCEPT_SECONDS = 2
READ_RATE = 100.0
READ_SECONDS = 3
FIRST_SECONDS = TOUCHED_SESSIONS / READ_RATE  # for each session to be read about once
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
            turns = [
                (stage.aforo, blocks, found.apply, found.read_p99, found.first_read),
                (small, beside, found.apply_beside, found.read_p99_beside, found.first_read_beside),
            ]
            for aforo, where, applied, reads, first in turns if number % 2 else reversed(turns):  # neither is always the first
                touched = chosen(where, bench.seed + number)
                first.append(_warm(bench, aforo, touched, f"w-{reservations}-{number}-"))
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


def chosen(blocks: Sequence[Block], seed: int) -> list[int]:
    """So many different sessions: one that is chosen twice would make the work of a batch less."""
    sessions = [session for block in blocks for session in range(block.first, block.last + 1)]
    return random.Random(seed).sample(sessions, TOUCHED_SESSIONS)


def _warm(bench: Bench, aforo: Aforo, touched: list[int], label: str) -> float:
    """Use these sessions as they are used later on. What the first reading of one took, in seconds at p50."""
    aforo.know(*(Block(session, 1) for session in touched))
    first = percentile(_latencies(bench, aforo, READS["session"], touched, FIRST_SECONDS), 0.5)
    bench.load.closed(aforo.url, reserving(touched, label=label), WARM_SECONDS, CONNECTIONS)
    aforo.drained()
    return first


def _apply(bench: Bench, aforo: Aforo, touched: list[int], label: str) -> float:
    """What waits, applied, a second."""
    bench.stage.settle()
    with aforo.halted("sweeper"):
        with aforo.halted("worker"):
            bench.load.closed(aforo.url, reserving(touched, label=label), ACCEPT_SECONDS, CONNECTIONS)
            time.sleep(0.2)
            backlog = aforo.waiting()
        started = time.monotonic()
        return backlog / (aforo.drained() - started)


def _read(bench: Bench, aforo: Aforo, touched: list[int]) -> dict[str, float]:
    return {name: percentile(_latencies(bench, aforo, path, touched, READ_SECONDS), 0.99) for name, path in READS.items()}


def _latencies(bench: Bench, aforo: Aforo, path: str, touched: list[int], seconds: float) -> list[float]:
    """Of readings, in seconds; infinite where there was no answer."""
    arrived = bench.load.open(aforo.url, reading(path, touched), READ_RATE, seconds, seed=bench.seed, connections=8, abandon=True)
    good = arrived.latencies.get("plain 200", [])
    others = arrived.unsent + sum(map(len, arrived.latencies.values())) - len(good)
    return [*good, *[math.inf] * others]


def _medians(large: list[float], small: list[float], unit: float) -> str:
    return f"{spread(large).median * unit:,.1f} ({spread(small).median * unit:,.1f})"
