"""Cases of the fault suite, shrunk: each against a stack of its own, with the same clients and the same checker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import tests.fault.suite.cases  # noqa: F401  registers them
from tests.conftest import temporary_folder
from tests.fault.suite.case import CASES, carry_out
from tests.fault.suite.report import table
from tests.support.processes import ROOT, children_of
from tests.support.stack import Servers
from tests.support.waiting import until

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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_suite_that_is_broken_off_leaves_no_server_and_no_folder_behind(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.fault.suite", "--case", "worker-crash"]
    with temporary_folder("broken-off") as folder:
        suite = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.DEVNULL)
        try:
            started = until(lambda: len(found := below(suite.pid)) > 8 and found, 60, "the stack")
            suite.send_signal(number)
            assert suite.wait(60) == 128 + number
        finally:
            suite.kill()
            suite.wait()
        until(lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()], 10, "their end")
        assert list(folder.iterdir()) == []


def below(pid: int) -> list[int]:
    """All processes that this one has started, and that these have."""
    return [found for child in children_of(pid) for found in (child, *below(child))]
