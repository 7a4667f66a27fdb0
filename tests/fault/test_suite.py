"""Cases of the fault suite, shrunk: each against a stack of its own, with the same clients and the same checker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tests.fault.suite.cases  # noqa: F401  registers them
from tests.fault.suite.case import CASES, carry_out
from tests.fault.suite.report import table
from tests.support.stack import Servers

SEED = 1
CHOSEN = [name for name, found in CASES.items() if found.in_tests is not None]


@pytest.mark.parametrize("name", CHOSEN)
def test_a_small_run_of_the_fault_suite_passes(servers: Servers, name: str) -> None:
    result = carry_out(CASES[name], SEED, CASES[name].in_tests or 1, 0.2, shared(servers))
    print(table([result]))
    assert result.failures == []
    assert result.skipped is None
    assert result.requests > 0


def shared(servers: Servers) -> Callable[[], Servers]:
    return lambda: servers
