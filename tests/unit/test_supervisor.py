"""The supervisor with small programs: order, restarts with back-off, stopping, and what an earlier run has left."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ops import supervisor as module
from ops.stackfile import StackFile
from ops.supervisor import ChildFailed, Interrupted, Program, Supervisor, end_leftovers, launch, started_at
from ops.up import Stack, Stopping
from tests.support.waiting import until

SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w'); time.sleep(60)"


@pytest.fixture
def changes() -> list[dict[str, int]]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, changes: list[dict[str, int]]) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path, changes.append)
    yield supervisor
    supervisor.stop((), lambda: True)


def program(folder: Path, name: str, code: str = SLEEP, **fields: object) -> Program:
    return Program(name, [sys.executable, "-c", code], dict(os.environ), folder, **fields)  # type: ignore[arg-type]


def looks_until(supervisor: Supervisor, condition: object) -> None:
    def look() -> bool:
        supervisor.look()
        return bool(condition())  # type: ignore[operator]

    until(look, 15)


def test_who_dies_is_started_again_and_everybody_is_told(
    supervisor: Supervisor, changes: list[dict[str, int]], tmp_path: Path
) -> None:
    supervisor.start(program(tmp_path, "one"))
    supervisor.start(program(tmp_path, "two"))
    before = supervisor.pids()
    os.kill(before["one"], signal.SIGKILL)
    looks_until(supervisor, lambda: supervisor.pids().get("one") not in (None, before["one"]))
    assert supervisor.pids()["two"] == before["two"]
    assert [set(change) for change in changes] == [{"one"}, {"one", "two"}, {"two"}, {"one", "two"}]
    assert [(seen.name, seen.restarts) for seen in supervisor.seen()] == [("one", 1), ("two", 0)]


def test_who_keeps_dying_is_started_ever_less_often(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BACK_OFF_SECONDS", 0.1)
    supervisor.start(program(tmp_path, "one", "open('starts', 'a').write('x')"))
    started = time.monotonic()
    looks_until(supervisor, lambda: (tmp_path / "starts").exists() and len((tmp_path / "starts").read_text()) == 4)
    assert time.monotonic() - started >= 0.1 + 0.2 + 0.4


def test_who_cannot_be_started_again_now_is_later(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BACK_OFF_SECONDS", 0.01)
    supervisor.start(program(tmp_path, "one"))
    before, refusals = supervisor.pids()["one"], [OSError(errno.ENOSPC, "No space left on device")] * 2

    def refuse_twice(*arguments: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return launch(*arguments)

    monkeypatch.setattr(module, "launch", refuse_twice)
    os.kill(before, signal.SIGKILL)
    looks_until(supervisor, lambda: supervisor.pids().get("one") not in (None, before))
    assert refusals == []
    assert [seen.restarts for seen in supervisor.seen()] == [1]


def test_a_full_disk_keeps_what_runs_running_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = StackFile.write
    console = Console(file=io.StringIO(), width=200)
    stack = Stack(1, 1, tmp_path, console, Stopping.__new__(Stopping))
    stack._urls, stack._owner_urls, stack._ready = ["postgresql://x", "redis://x"], ["", ""], True
    stack._file = StackFile("", "", "")

    def refuse(_file: StackFile, _path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StackFile, "write", refuse)
    for pid in (11, 12):
        stack._changed({"api": pid})
        stack._write()
    monkeypatch.setattr(StackFile, "write", written)
    stack._write()
    assert json.loads((tmp_path / "stack.json").read_text())["pids"]["api"] == 12
    assert console.file.getvalue().count("No space left on device") == 1  # type: ignore[attr-defined]


def test_a_program_that_ends_at_its_start_is_told_with_its_last_words(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="no such thing"):
        supervisor.start(program(tmp_path, "one", "raise SystemExit('no such thing')", is_ready=lambda: False))


def test_starting_can_be_interrupted(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, lambda pids: None, lambda: True)
    with pytest.raises(Interrupted):
        supervisor.start(program(tmp_path, "one", is_ready=lambda: False))
    pids = supervisor.pids()
    supervisor.stop((), lambda: False)
    assert started_at(pids["one"]) is None


def test_all_are_stopped_in_the_order_that_is_asked_for(supervisor: Supervisor, tmp_path: Path) -> None:
    end = "lambda *_: (open('order', 'a').write(sys.argv[1]), sys.exit())"
    code = f"import signal, sys, time\nsignal.signal(signal.SIGTERM, {end})\n"
    for name in "abc":
        ready = tmp_path / f"ready-{name}"
        command = [sys.executable, "-c", f"{code}open({str(ready)!r}, 'w')\ntime.sleep(60)", name]
        supervisor.start(Program(name, command, dict(os.environ), tmp_path, is_ready=ready.exists))
    supervisor.stop(("b",), lambda: False)
    assert (tmp_path / "order").read_text() == "bca"


def test_who_does_not_stop_is_killed_with_all_it_started(supervisor: Supervisor, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    supervisor.start(program(tmp_path, "one", STUBBORN, stop_seconds=0.3, is_ready=ready.exists))
    (pid,) = supervisor.pids().values()
    started = time.monotonic()
    supervisor.stop((), lambda: False)
    assert 0.3 <= time.monotonic() - started < 5
    assert started_at(pid) is None


def test_leftovers_are_ended_only_if_they_are_still_the_same(tmp_path: Path) -> None:
    ours, other = (launch(program(tmp_path, name), tmp_path / name) for name in ("ours", "other"))
    started = {ours.pid: started_at(ours.pid) or "", other.pid: "another time"}
    try:
        assert end_leftovers(started, frozenset(), 0.0) == [ours.pid]
        assert ours.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait(5)


def test_no_process_has_no_start() -> None:
    assert started_at(2**22 + 1) is None
    assert started_at(os.getpid())
