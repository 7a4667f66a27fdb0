"""Faults placed by chance in memory: the seeded scheduler, and long histories of the decision. No servers, two processes."""

from __future__ import annotations

import multiprocessing
from functools import partial

from tests.fault.suite.case import Run, case
from tests.sim import scheduler
from tests.unit.test_state_machine import hold_through

PROCESSES = 2


@case(
    "interleavings",
    fault="interleavings",
    injected="100,000 seeds of accept, ring, drain, crash, sweep, publish and loss over the real service, in memory (tests/sim)",
    passes="nothing lost, doubled, overbooked or out of order, the second model agrees, and numbering recovers, in every one",
)
def interleavings(run: Run) -> None:
    """Every seed is another interleaving; one that fails is printed whole."""
    first = run.random.randrange(10**9)
    seeds = run.scaled(100_000, least=100)
    totals = scheduler.try_all(range(first, first + seeds), PROCESSES)
    run.injected(totals.faults)
    run.result.requests += totals.requests
    run.result.accepted += totals.accepted
    run.note(f"{totals.seeds} seeds, the first {first}")
    for story in totals.stories:
        print(f"\n{story}")
        run.require(False, story.rpartition("\n")[2])


@case(
    "histories",
    fault="histories",
    injected="10,000 random histories of up to 60 commands through decide(), in batches of any size, in memory",
    passes="the second model, one command at a time, comes to the same outcomes, places and waitlists",
)
def histories(run: Run) -> None:
    """The hypothesis state machine, at full length."""
    each = run.scaled(10_000 / PROCESSES, least=20)
    seeds = [run.random.randrange(10**9) for _ in range(PROCESSES)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(partial(hold_through, each), seeds)
    run.result.requests += each * PROCESSES
    run.note(f"hypothesis seeds {seeds}")
