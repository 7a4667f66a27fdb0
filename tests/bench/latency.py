"""How long it takes at a given load: until the 202, and until the outcome, from the moment a request was due.

An open loop: requests come at random times whatever the answers do. One in ten prefers to wait for its outcome, so that what
is timed is what a client sees; the rest are timed until their 202.
"""

from __future__ import annotations

from tests.bench.arithmetic import percentile
from tests.bench.bench import Bench
from tests.bench.book import Latency
from tests.bench.load import Arrived
from tests.bench.parts import Applying
from tests.bench.throughput import AFORO
from tests.bench.workload import SESSIONS, TITLES, order_of, reserving

SHARES = (0.5, 0.99, 0.999)
WAITING_SHARE = 0.1
WAIT = "Prefer: wait=10"
OVERLOAD = 200  # percent of capacity: above it, most cannot be answered
SETTLING_SECONDS = 1.0  # at the start of an overload, which do not count


def at(bench: Bench, kind: str, percent: int) -> None:
    """One load, in percent of what was applied of a closed loop's."""
    capacity = bench.book.of(f"{AFORO} {kind}")
    assert capacity is not None
    rate = capacity.median * percent / 100
    aforo = bench.stage.aforo
    block = aforo.new_sessions(SESSIONS[kind])
    bench.stage.settle()
    order = order_of(kind, block.first, block.count, bench.seed)
    overload = percent > OVERLOAD
    with Applying(bench, block) as applying:
        arrived = bench.load.open(
            aforo.url,
            reserving(order),
            rate,
            bench.size.latency_seconds,
            seed=bench.seed + percent,
            waiting=reserving(order, WAIT),
            waiting_share=WAITING_SHARE,
            abandon=overload,
        )
    aforo.drained()
    found = _latency(kind, percent, rate, arrived, overload)
    bench.book.latencies.append(found)
    accept, outcome = ([f"{value * 1000:.1f}" for value in values] for values in (found.accept, found.outcome))
    bench.say(f"  {percent} % of {TITLES[kind]}: accept {' / '.join(accept)} ms, outcome {' / '.join(outcome)} ms")
    if overload:
        end = arrived.started + bench.size.latency_seconds
        bench.note(f"overload {kind}", applying.rate(arrived.started + SETTLING_SECONDS, end))
        bench.book.add(f"overload refused {kind}", arrived.count(503) / arrived.seconds)
        for status in (202, 503):
            served = [value for name, values in arrived.service.items() if name.endswith(f" {status}") for value in values]
            if served:
                for name, share in (("p50", 0.5), ("p99", 0.99)):
                    bench.book.add(f"overload {status} {name} {kind}", percentile(served, share))


def _latency(kind: str, percent: int, rate: float, arrived: Arrived, overload: bool) -> Latency:
    """Of an overload only what was accepted; else everything, and what had no answer counts as infinite."""
    accept = list(arrived.latencies.get("plain 202", []))
    outcome = list(arrived.latencies.get("waiting 201", []))
    late = len(arrived.latencies.get("waiting 202", []))  # no outcome within the time they would wait
    unanswered = arrived.count(0) + arrived.unsent + arrived.broken
    if not overload:
        accept += [float("inf")] * len(arrived.latencies.get("plain 0", []))
    outcome += [float("inf")] * late
    everything = arrived.count(201, 202, 503) + unanswered
    return Latency(
        kind,
        percent,
        rate,
        [percentile(accept, share) for share in SHARES],
        [percentile(outcome, share) for share in SHARES],
        arrived.count(503) / max(1, everything),
        unanswered / max(1, everything),
    )
