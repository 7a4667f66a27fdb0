"""Cases of the fault suite, shrunk: each against a stack of its own, with the same clients and the same checker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import tests.fault.suite.cases  # noqa: F401  registers them
from tests.conftest import temporary_folder
from tests.fault.suite.case import CASES, carry_out
from tests.fault.suite.report import table
from tests.support.stack import Servers

SEED = 1
CHOSEN = [name for name, found in CASES.items() if found.in_tests is not None]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", CHOSEN)
def test_a_small_run_of_the_fault_suite_passes(servers: Servers, spare: Callable[[], Servers], name: str) -> None:
    result = carry_out(CASES[name], SEED, CASES[name].in_tests or 1, 0.2, shared(servers), spare)
    print(table([result]))
    assert result.failures == []
    assert result.skipped is None
    assert result.requests > 0


@pytest.fixture(scope="module")
def spare() -> Iterator[Callable[[], Servers]]:
    """Servers for cases that hurt them: the same ones, as long as each case leaves them whole."""
    with ExitStack() as open_:
        made: list[Servers] = []

        def whole() -> Servers:
            if not made or not all(s.program.is_ready and s.program.is_ready() for s in (made[-1].postgres, made[-1].valkey)):
                made.append(Servers(open_.enter_context(temporary_folder("spare"))))
                open_.callback(made[-1].close)
            return made[-1]

        yield whole


def shared(servers: Servers) -> Callable[[], Servers]:
    return lambda: servers
