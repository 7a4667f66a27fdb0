"""The reference in a real browser."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.browser import DESK, Visitor


def test_the_reference_shows_every_operation_and_loads_nothing_from_elsewhere(visit: Callable[..., Visitor]) -> None:
    visitor = visit("/api/docs/", size=DESK)
    visitor.page.get_by_text("/api/sessions/{session}/reserve/").first.wait_for()
    assert visitor.strangers() == []
    assert visitor.troubles == []
