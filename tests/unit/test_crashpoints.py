"""Crash points: no-ops until a test arms one, and then exactly there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import crashpoints


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    crashpoints.disarm()


def test_points_do_nothing_unless_armed() -> None:
    for point in crashpoints.POINTS:
        assert not crashpoints.is_armed(point)
        crashpoints.reach(point)


def test_an_armed_point_acts_once() -> None:
    seen: list[str] = []
    crashpoints.arm("after_read", lambda: seen.append("here"))
    for _ in range(3):
        crashpoints.reach("after_commit")
        crashpoints.reach("after_read")
    assert seen == ["here"]


def test_the_nth_time_can_be_chosen() -> None:
    seen: list[int] = []
    crashpoints.arm("after_read#3", lambda: seen.append(1))
    for expected in (0, 0, 1, 1):
        crashpoints.reach("after_read")
        assert len(seen) == expected


def test_a_subject_can_be_chosen_and_acts_each_time() -> None:
    seen: list[int] = []
    crashpoints.arm("deciding=ana@example.org", lambda: seen.append(1))
    for subject in ("bo@example.org", "ana@example.org", "ana@example.org"):
        crashpoints.reach("deciding", subject)
    assert len(seen) == 2


def test_an_unknown_point_is_refused() -> None:
    with pytest.raises(ValueError, match="no crash point is called 'nowhere'"):
        crashpoints.arm("nowhere")
