"""`aforo up` as an operator meets it: first start, second start, crashes of its own and of its children, its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from core.mailbox import connect
from ops.client import Client
from ops.localstack import free_port
from ops.supervisor import started_at
from ops.up import EXAMPLES, is_ready
from tests.support.processes import ROOT
from tests.support.stack import Deployment
from tests.support.waiting import until

START_SECONDS = 60
NAMES = {"up", "postgres", "valkey", "worker", "sweeper", "api"}


class Up:
    """An `aforo up` in a folder, with what it printed."""

    def __init__(self, folder: Path, port: int | None = None, last_line: str = "  curl ", **environment: str) -> None:
        """`last_line`: how the last line begins that it prints before it settles."""
        self.folder = folder
        self.last_line = last_line
        self.port = port or free_port()
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("AFORO_")} | environment
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "ops.cli", "up", "--port", str(self.port), "--workers", "1"]
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(self.folder)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith(self.last_line):
                break

    @property
    def stack(self) -> dict[str, Any]:
        return json.loads((self.folder / "stack.json").read_text("utf-8"))

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


def alive(pid: int) -> bool:
    return started_at(pid) is not None and not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False)
    return shown.stdout.startswith("Z")


def environment_of(pid: int) -> set[str]:
    """The values in a process's environment; none where the system does not show them."""
    path = Path(f"/proc/{pid}/environ")
    return {pair.partition("=")[2] for pair in path.read_text("utf-8").split("\0")} if path.exists() else set()


def owners_secrets(stack: dict[str, Any]) -> set[str]:
    """What no running process may know."""
    owner, app = ([stack[name] for name in names] for names in (("owner_url", "redis_owner_url"), ("database_url", "redis_url")))
    passwords = {make_url(url).password for url in owner}
    assert passwords.isdisjoint(make_url(url).password for url in app)
    return {*owner, *passwords}  # type: ignore[arg-type]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aforo-test-up-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path / "a data folder"


def test_the_whole_life_of_a_stack(folder: Path) -> None:
    up = Up(folder)
    ready, book, curl = up.lines[-4], up.lines[-3], up.lines[-1]
    origin = f"http://127.0.0.1:{up.port}"
    assert ready == f"Aforo is ready: {origin}  (docs: {origin}/api/docs/)"
    assert book == f"Book in the browser: {origin}/s/1"

    # The printed line works as it stands, and what it reserves is one of the examples.
    done = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["outcome"] == "confirmed"
    sessions = up.client().get("/api/sessions/").body
    assert {session["title"] for session in sessions["results"]} == {title for title, *_ in EXAMPLES}

    # stack.json tells others where everything is, and nobody else may read it.
    assert stat.S_IMODE((folder / "stack.json").stat().st_mode) == 0o600
    before = up.stack
    assert (before["api"], set(before["pids"])) == (origin, NAMES)
    assert all(alive(pid) for pid in before["pids"].values())
    for name in ("worker", "sweeper", "api"):
        known = " ".join(environment_of(before["pids"][name]))
        assert [secret for secret in owners_secrets(before) if secret in known] == []
    assert connect(before["redis_url"]).config_get("appendfsync") == {"appendfsync": "always"}

    # A second one in the same folder is refused and disturbs nothing.
    second = Up(folder)
    assert second.process.wait(30) == 1
    assert origin in second.lines[-1]

    # Whoever dies is started again, and the file says so.
    for name in ("worker", "postgres"):
        os.kill(before["pids"][name], signal.SIGKILL)
        until(lambda name=name: up.stack["pids"].get(name, before["pids"][name]) != before["pids"][name], 20, f"{name} again")
    until(lambda: is_ready(origin), 20, "it is ready again")
    first = sessions["results"][0]["id"]
    answer = up.client().post(f"/api/sessions/{first}/cancel/", {"email": "ana@example.org"}, Prefer="wait=20")
    assert answer.body["outcome"] == "cancelled"

    # kill -9 of `up` itself leaves the others behind; the next one ends them and goes on with the same data. So it does with
    # what a release left behind that knew no role but the owner's.
    pids, owner_url = up.stack["pids"], up.stack["owner_url"]
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait(10)
    assert alive(pids["postgres"])
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP OWNED BY aforo_app; DROP ROLE aforo_app")
    connection.close()
    (folder / "password.app").unlink()
    up.start()
    # Four, where the sweeper had time to notice that its role may do nothing any more, and ended by itself.
    assert any(f"{left} processes" in line for line in up.lines for left in (4, 5))
    assert not any(alive(pid) for name, pid in pids.items() if name != "up")
    assert up.client().get(f"/api/sessions/{first}/").body["last_seq"] == 2
    assert up.client().get("/api/sessions/?available=all").body["count"] == len(EXAMPLES)

    # An orderly end ends everything.
    pids = up.stack["pids"]
    assert up.stop() == 0
    assert [name for name, pid in pids.items() if alive(pid)] == []
    assert not (folder / "stack.json").exists()


def test_servers_that_are_given_are_used_and_none_is_started(folder: Path, deployment: Deployment) -> None:
    up = Up(folder, last_line="Aforo is ready", **deployment.operator_environment)
    try:
        assert set(up.stack["pids"]) == NAMES - {"postgres", "valkey"}
        assert up.stack["database_url"] == deployment.database_url
        assert up.client().get("/api/sessions/?available=all").body["count"] == 0  # somebody's database gets no examples
    finally:
        assert up.stop(signal.SIGINT) == 0


def test_a_port_that_is_taken_is_told(folder: Path, live_api: Any) -> None:
    up = Up(folder, port=int(live_api.url.rpartition(":")[2]))
    assert up.process.wait(30) == 1
    assert "--port" in up.lines[-1]


def test_a_folder_that_only_its_owner_may_enter_works(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    up = Up(folder)
    elsewhere = re.findall(r"their data are in (\S+)\.$", "\n".join(up.lines), re.MULTILINE)
    try:
        data = up.folder / "postgres"
        if os.geteuid() == 0:
            assert len(elsewhere) == 1
            assert not data.exists()
        else:
            assert data.exists()
        assert is_ready(up.stack["api"])
    finally:
        assert up.stop(signal.SIGHUP) == 0
        for place in elsewhere:
            shutil.rmtree(Path(place).parent)
