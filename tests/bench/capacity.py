"""What a rate of reservations takes in processes and servers, from what a command costs, and a simulation that backs it.

`python -m tests.bench.capacity --seed 1` prints the tables of docs/operations.md. The costs are those of a bench run (--costs
names a file with others). The simulation adds what sums leave out: groups at the door, batches, partitions that are unevenly hit
(sessions by Zipf's law), and one partition's batches one after the other.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import zlib
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

RUN = "make bench, November 2026, 2 cores"
BUSY = 0.6  # of a core, planned: queues grow long beyond
GROUP_LIMIT = 256
BATCH_LIMIT = 1000
PER_MINUTE = (100_000, 250_000, 500_000, 1_000_000, 2_000_000)


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of a core for a command, accepted and applied; and what a group or a batch takes however large it is."""

    api_us: float
    worker_us: float
    postgres_us: float
    valkey_us: float
    fsync_ms: float = 1.0  # of a group at the door; assumed
    batch_ms: float = 3.0  # of a batch: its round trips and its commit's fsync; assumed

    @property
    def apply_us(self) -> float:
        """In one partition a command is applied after the other: the worker's share and Postgres's add up."""
        return self.worker_us + self.postgres_us


HOT = Costs(api_us=59, worker_us=18, postgres_us=21, valkey_us=31)
MANY = Costs(api_us=65, worker_us=30, postgres_us=37, valkey_us=45)  # 1,000 sessions, evenly


@dataclass(frozen=True, slots=True)
class Plan:
    """So many of each. Valkey counts in nodes, for each has one thread for commands; Postgres in cores."""

    api: int
    workers: int
    valkey: int
    postgres: int
    partitions: int


def plan(costs: Costs, per_second: float) -> Plan:
    """What keeps each part at BUSY at most; of partitions two for each worker, so that none is without."""
    needs = (costs.api_us, costs.apply_us, costs.valkey_us, costs.postgres_us)  # a worker process waits while Postgres works
    api, workers, valkey, postgres = (math.ceil(per_second * us / 1e6 / BUSY) for us in needs)
    return Plan(api, workers, valkey, postgres, max(4, 2 * max(workers, valkey)))


def limits(costs: Costs) -> dict[str, float]:
    """Commands a second at which what cannot be had twice is used up."""
    return {
        "one Valkey without a cluster": 1e6 / costs.valkey_us,
        "one partition, and so one session": 1e6 / (costs.apply_us + 1000 * costs.batch_ms / BATCH_LIMIT),
        "one Postgres of 16 cores": 16e6 / costs.postgres_us,
    }


@dataclass(frozen=True, slots=True)
class Result:
    """Of a simulation: rates in commands a second, shares of what there is, and latencies in milliseconds."""

    arrived: int
    applied: int
    per_second: float
    busy: dict[str, float]
    accept_ms: tuple[float, float]
    outcome_ms: tuple[float, float]
    in_order: bool


def simulate(costs: Costs, given: Plan, per_second: float, seed: int, seconds: float, sessions: int, skew: float) -> Result:
    """Arrivals by chance (Poisson) over sessions by Zipf's law with exponent `skew`; everything that arrives is applied."""
    chance = random.Random(seed)
    weights = list(accumulate(1 / rank**skew for rank in range(1, sessions + 1)))
    lanes = [zlib.crc32(b"%d" % session) % given.partitions for session in range(1, sessions + 1)]
    arrivals: list[tuple[float, int]] = []
    at = chance.expovariate(per_second)
    while at < seconds:
        arrivals.append((at, chance.choices(range(sessions), cum_weights=weights)[0]))
        at += chance.expovariate(per_second)
    knocks, api_busy = _through_api(arrivals, costs, given, chance)
    accepted, valkey_busy = _through_door(knocks, lanes, costs, given)
    done, worker_busy, postgres_busy, end = _applied(accepted, lanes, costs, given)
    busy = {
        "API": api_busy / given.api, "workers": worker_busy / given.workers,
        "Valkey": valkey_busy / given.valkey, "Postgres": postgres_busy / given.postgres,
    }  # fmt: skip
    waits = sorted(moment - arrived for arrived, _, moment in accepted)
    outcomes = sorted(moment - arrived for _, arrived, _, moment in done)
    order = all(_grows(moments) for moments in _by_session(done).values())
    span = max(end, seconds)
    shares = {name: share / span for name, share in busy.items()}
    return Result(len(arrivals), len(done), len(done) / span, shares, _quantiles(waits), _quantiles(outcomes), order)


def _through_api(arrivals: list[tuple[float, int]], costs: Costs, given: Plan, chance: random.Random):
    """Each process serves what comes to it, one after the other."""
    free = [0.0] * given.api
    knocks = []
    for at, session in arrivals:
        process = chance.randrange(given.api)
        free[process] = max(free[process], at) + costs.api_us / 1e6
        knocks.append((free[process], at, session))
    return sorted(knocks), len(arrivals) * costs.api_us / 1e6


def _through_door(knocks: list[tuple[float, float, int]], lanes: list[int], costs: Costs, given: Plan):
    """Each node takes all that waits for it in one group, and writes it to disk. (arrived, session, accepted), in order."""
    of_node: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
    for knock in knocks:
        of_node[lanes[knock[2]] % given.valkey].append(knock)
    accepted = []
    for waiting in of_node.values():
        now, i = 0.0, 0
        while i < len(waiting):
            now = max(now, waiting[i][0])
            group = i
            while group < len(waiting) and group - i < GROUP_LIMIT and waiting[group][0] <= now:
                group += 1
            now += costs.fsync_ms / 1e3 + (group - i) * costs.valkey_us / 1e6
            accepted += [(arrived, session, now) for _, arrived, session in waiting[i:group]]
            i = group
    return sorted(accepted, key=lambda row: row[2]), len(knocks) * costs.valkey_us / 1e6


def _applied(accepted: list[tuple[float, int, float]], lanes: list[int], costs: Costs, given: Plan):
    """Workers take what waits in a partition nobody else has, in batches; Postgres's cores are shared by those under way."""
    mailboxes: list[list[tuple[int, float, int]]] = [[] for _ in range(given.partitions)]
    ready: list[tuple[float, int]] = []  # partitions to drain, the longest waiting first
    running: list[tuple[float, int, list[tuple[int, float, int]]]] = []
    has_turn = [False] * given.partitions
    done: list[tuple[int, float, int, float]] = []
    worker_busy = postgres_busy = now = 0.0
    i = 0
    while i < len(accepted) or running or ready:
        while ready and len(running) < given.workers:
            _, lane = heapq.heappop(ready)
            batch, mailboxes[lane] = mailboxes[lane][:BATCH_LIMIT], mailboxes[lane][BATCH_LIMIT:]
            crowd = max(1.0, (len(running) + 1) * costs.postgres_us / costs.apply_us / given.postgres)
            held = costs.batch_ms / 1e3 + len(batch) * (costs.worker_us + costs.postgres_us * crowd) / 1e6
            heapq.heappush(running, (now + held, lane, batch))
            worker_busy += held
            postgres_busy += len(batch) * costs.postgres_us / 1e6
        if running and (i == len(accepted) or running[0][0] <= accepted[i][2]):
            now, lane, batch = heapq.heappop(running)
            done += [(session, arrived, number, now) for session, arrived, number in batch]
            has_turn[lane] = bool(mailboxes[lane])
            if has_turn[lane]:
                heapq.heappush(ready, (now, lane))
            continue
        if i < len(accepted):
            arrived, session, now = accepted[i]
            lane = lanes[session]
            mailboxes[lane].append((session, arrived, i))
            if not has_turn[lane]:
                has_turn[lane] = True
                heapq.heappush(ready, (now, lane))
            i += 1
    return done, worker_busy, postgres_busy, now


def _by_session(done: list[tuple[int, float, int, float]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for session, _, number, _ in done:
        found[session].append(number)
    return found


def _grows(numbers: list[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))


def _quantiles(waits: list[float]) -> tuple[float, float]:
    return tuple(round(1000 * waits[int(share * (len(waits) - 1))], 1) if waits else 0.0 for share in (0.5, 0.99))  # type: ignore[return-value]


def plan_table(costs: Costs) -> list[str]:
    """What rates take, a line for each."""
    lines = ["| reservations a minute | API processes | worker processes | partitions | Valkey nodes | Postgres cores |"]
    lines.append("|" + "---|" * 6)
    for per_minute in PER_MINUTE:
        p = plan(costs, per_minute / 60)
        lines.append(f"| {per_minute:,} | {p.api} | {p.workers} | {p.partitions} | {p.valkey} | {p.postgres} |")
    return lines


def limit_table() -> list[str]:
    """What gives out, and when."""
    lines = ["| gives out at (commands a second) | one hot session | 1,000 sessions |", "|---|---|---|"]
    hot, many = limits(HOT), limits(MANY)
    return lines + [f"| {name} | {hot[name]:,.0f} | {many[name]:,.0f} |" for name in hot]


def simulated_table(costs: Costs, seed: int, seconds: float) -> list[str]:
    """The plan for each rate, tried, and the same with too few partitions or too steep a crowd."""
    parts = "API | workers | Valkey | Postgres"
    lines = [f"| simulated | applied a second | {parts} | accept p50, p99 (ms) | outcome p50, p99 (ms) |"]
    lines.append("|" + "---|" * 8)
    million = plan(costs, 1_000_000 / 60)
    tried = [(f"{n:,} a minute, Zipf 0.8", plan(costs, n / 60), n / 60, 0.8) for n in (250_000, 1_000_000)]
    tried.append(("1,000,000, 16 partitions", replace(million, partitions=16), 1_000_000 / 60, 0.8))
    tried.append(("1,000,000, Zipf 1.5: one session has 4 in 10", million, 1_000_000 / 60, 1.5))
    tried.append(("1,000,000, Zipf 3: one session has 8 in 10", million, 1_000_000 / 60, 3.0))
    for name, given, per_second, skew in tried:
        r = simulate(costs, given, per_second, seed, seconds, 10_000, skew)
        shares = " | ".join(f"{r.busy[part]:.2f}" for part in ("API", "workers", "Valkey", "Postgres"))
        times = " | ".join(f"{p50:,.0f}, {p99:,.0f}" for p50, p99 in (r.accept_ms, r.outcome_ms))
        lines.append(f"| {name} | {r.per_second:,.0f} | {shares} | {times} |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="simulated")
    parser.add_argument("--costs", type=Path, help="a JSON file with api_us, worker_us, postgres_us, valkey_us")
    asked = parser.parse_args()
    costs = MANY if asked.costs is None else Costs(**json.loads(asked.costs.read_text("utf-8")))
    print(f"Costs: {asked.costs or RUN}; seed {asked.seed}; parts at most {BUSY:.0%} busy.\n")
    for table in (plan_table(costs), limit_table(), simulated_table(costs, asked.seed, asked.seconds)):
        print("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
