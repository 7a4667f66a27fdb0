"""Metrics: what is handed on in groups counts as if it had been counted one by one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from core.countfiles import CountFile
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


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only where files may lie in memory")
def test_counts_go_on_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _offset: int, _bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shared, late = (str(tmp_path / name) for name in ("counter_1.db", "counter_2.db"))
    counts = CountFile(shared)
    counts.write_value("early", 1.0, 0.0)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    for file in (counts, CountFile(late)):
        for number in range(3000):  # far more than a file has room for at first
            file.write_value(f"count {number}", float(number), 0.0)
        assert [file.read_value(f"count {number}")[0] for number in (0, 1500, 2999)] == [0.0, 1500.0, 2999.0]
        file.close()
    assert ("early", 1.0, 0.0) in [row[:3] for row in CountFile.read_all_values_from_file(shared)]
    assert not Path(late).exists()  # an empty one could not be read


def test_a_file_of_counts_grows_and_is_read_by_others(tmp_path: Path) -> None:
    counts = CountFile(str(tmp_path / "counter_1.db"))
    for number in range(3000):
        counts.write_value(f"count {number}", float(number), 0.0)
    counts.close()
    found = [row[1] for row in CountFile.read_all_values_from_file(str(tmp_path / "counter_1.db"))]
    assert found == [float(number) for number in range(3000)]
