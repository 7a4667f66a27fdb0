"""The capacity model: its sums, and a simulation that obeys what must hold in any queue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.capacity import BUSY, HOT, MANY, Plan, limit_table, limits, plan, plan_table, simulate, simulated_table

MILLION_A_MINUTE = 1_000_000 / 60
ROOT = Path(__file__).resolve().parents[2]


def test_the_same_seed_gives_the_same_result_and_another_one_another() -> None:
    first, again, other = (simulate(MANY, plan(MANY, 2000), 2000, seed, 2, 500, 0.8) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("per_second", [500.0, 4000.0, MILLION_A_MINUTE])
def test_everything_that_arrives_is_applied_once_and_in_order_and_parts_are_as_busy_as_the_sums_say(per_second: float) -> None:
    given = plan(MANY, per_second)
    found = simulate(MANY, given, per_second, 3, 2, 5000, 0.8)
    assert found.applied == found.arrived
    assert found.in_order
    for name, us, count in (
        ("API", MANY.api_us, given.api), ("Valkey", MANY.valkey_us, given.valkey), ("Postgres", MANY.postgres_us, given.postgres),
    ):  # fmt: skip
        assert found.busy[name] == pytest.approx(found.per_second * us / 1e6 / count, rel=1e-6)  # the utilisation law
        assert found.busy[name] < BUSY + 0.05
    assert found.busy["workers"] <= 1.0 + 1e-9
    assert found.per_second == pytest.approx(per_second, rel=0.1)


def test_one_hot_session_is_applied_no_faster_than_its_partition_whoever_helps() -> None:
    most = limits(HOT)["one partition, and so one session"]
    few, many = (simulate(HOT, replace(plan(HOT, 2 * most), workers=n), 2 * most, 1, 3, 1, 1.0) for n in (1, 30))
    assert many.per_second == pytest.approx(most, rel=0.05)
    assert few.per_second == pytest.approx(many.per_second, rel=0.02)
    assert many.outcome_ms[1] > 1000


def test_a_part_that_is_too_small_bounds_the_rate_of_all() -> None:
    given = Plan(api=10, workers=10, valkey=1, postgres=10, partitions=40)
    found = simulate(MANY, given, 2e6 / MANY.valkey_us, 1, 2, 5000, 0.5)
    assert found.per_second < 1e6 / MANY.valkey_us
    assert found.busy["Valkey"] > 0.9


def test_the_documents_show_what_the_command_prints() -> None:
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    for line in (*plan_table(MANY), *limit_table(), *simulated_table(MANY, 1, 5.0)):
        assert line in text, line
