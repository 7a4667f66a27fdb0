"""Metrics: what is handed on in groups counts as if it had been counted one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from core.telemetry import Tally, observe_all

BOUNDS = (0.001, 0.25, 1.0, 10.0)


def samples(histogram: Histogram) -> list[tuple[str, dict[str, str], float]]:
    return [
        (s.name, s.labels, s.value) for metric in histogram.collect() for s in metric.samples if not s.name.endswith("_created")
    ]


@given(st.lists(st.one_of(st.sampled_from([0.0, *BOUNDS]), st.integers(0, 80).map(lambda n: n / 4)), max_size=30))
def test_values_observed_together_count_like_values_observed_one_by_one(values: list[float]) -> None:
    alone, together = (Histogram("x", "x", buckets=BOUNDS, registry=CollectorRegistry()) for _ in range(2))
    for value in values:
        alone.observe(value)
    observe_all(together, values)
    assert samples(together) == samples(alone)


def test_a_tally_hands_on_what_it_added_up_once() -> None:
    registry = CollectorRegistry()
    tally = Tally(Counter("calls", "calls", ["method"], registry=registry))
    for method in ("GET", "POST", "GET"):
        tally.add(method)
    assert registry.get_sample_value("calls_total", {"method": "GET"}) is None
    tally.flush()
    tally.flush()
    assert registry.get_sample_value("calls_total", {"method": "GET"}) == 2
    assert registry.get_sample_value("calls_total", {"method": "POST"}) == 1
