"""`aforo up`: the whole of Aforo on this machine, until it is told to stop.

It starts what no URL was given for (Postgres, Valkey), migrates, runs the API, a Celery worker and the sweeper, shows how
they do, and starts again what dies. The data stay in the data folder for the next time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from core.finding import SessionSearch
from core.queries import Queries
from core.settings import load, strangers
from core.store import create_engine
from ops import localstack, stackfile
from ops.client import Client, NoAnswer, key_from_environment
from ops.localstack import HOST
from ops.screen import Screen
from ops.stackfile import StackFile
from ops.supervisor import ChildFailed, Program, Supervisor, end_leftovers, started_at

ROOT = Path(__file__).resolve().parents[1]
STACK_FILE = "stack.json"
LOOK_SECONDS = 0.2
LEFTOVER_SECONDS = 20.0
MIGRATION_SECONDS = 120
# So that nothing new is accepted first, what is queued gets done next, and the servers outlive all who use them.
STOP_ORDER = ("api", "worker", "sweeper", "valkey", "postgres")

EXAMPLES = (
    ("Letterpress for beginners", "Set a line of type by hand and print it. Aprons are here.", "Workshop, ground floor", 7, 12),
    ("An evening with the city orchestra", "Open rehearsal, then questions to the conductor.", "Great hall", 14, 500),
    ("Bread from one starter", "Everybody goes home with a loaf and a jar.", "Kitchen", 21, 8),
)


class CannotStart(Exception):
    """`aforo up` cannot run here now; the message says why and what to do."""


CANNOT_START = (CannotStart, ChildFailed, localstack.LocalStackError, stackfile.BrokenStackFile, OSError)


class Stopping:
    """Counts the requests to stop: one is for an orderly end, another for haste."""

    def __init__(self) -> None:
        self._count = 0
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, self._asked)

    def _asked(self, *_: object) -> None:
        self._count += 1

    def asked(self) -> bool:
        """Whether anybody asked to stop."""
        return self._count > 0

    def hurry(self) -> bool:
        """Whether they asked again."""
        return self._count > 1


def run(port: int, workers: int, data_dir: Path, console: Console | None = None) -> int:
    """Run until a signal says stop. The exit status: 0 after an orderly end, 1 when it could not start."""
    console = console or Console(highlight=False, soft_wrap=True)
    stopping = Stopping()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(data_dir):
            stack = Stack(port, workers, data_dir.resolve(), console, stopping)
            try:
                stack.start()
                stack.watch()
            finally:
                stack.stop()
    except CANNOT_START as exc:
        if stopping.asked():
            return 0
        console.print(f"Aforo cannot start: {exc}", style="red", markup=False)
        return 1
    return 0


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    with (data_dir / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            running = stackfile.read(data_dir / STACK_FILE)
            where = f" at {running.api}" if running else ""
            raise CannotStart(
                f"it runs already with the data in {data_dir}{where}. Stop that one, or choose another --data-dir and --port."
            ) from exc
        yield


class Stack:
    """One run: what was started, and how it is stopped."""

    def __init__(
        self, port: int, workers: int, data_dir: Path, console: Console, stopping: Stopping, **variables: str
    ) -> None:
        """`variables` go into the processes' environment, before those of this process."""
        self._variables = variables
        self._data_dir = data_dir
        self._console = console
        self._stopping = stopping
        self._path = data_dir / STACK_FILE
        self._logs = data_dir / "logs"
        self._origin = f"http://{HOST}:{port}"
        self._port = port
        self._workers = workers
        self._ready = self._is_told = False
        self._is_written = True
        self._supervisor = Supervisor(self._logs, self._changed, stopping.asked)

    def start(self) -> None:
        """Bring everything up. Raises CannotStart, ChildFailed, LocalStackError."""
        for line in strangers(os.environ):
            self._say(line)
        self._end_leftovers()
        _check_port(self._port)
        self._make_room()
        servers = self._servers()
        self._file = StackFile(self._origin, *self._urls, *self._owner_urls)
        for server in servers:
            self._supervisor.start(server.program)
        self._migrate()
        if any(server.program.name == "postgres" for server in servers):
            self._examples()
        for program in self._programs():
            self._supervisor.start(program)
        self._ready = True
        self._announce()

    def watch(self) -> None:
        """Keep it running until somebody asks to stop."""
        screen = Screen(self._console, self._origin, self._data_dir)
        with screen:
            while not self._stopping.asked():
                self._supervisor.look()
                self._write()
                screen.show(list(self._supervisor.seen()))
                time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Stop everything, in order; what was asked twice, at once."""
        if self._ready:
            self._say("Stopping. (Once more to stop at once.)")
        self._ready = False
        self._supervisor.stop(STOP_ORDER, self._stopping.hurry)
        self._path.unlink(missing_ok=True)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def _end_leftovers(self) -> None:
        before = stackfile.read(self._path)
        if before is None:
            return
        started = {before.pids[name]: start for name, start in before.started.items() if name in before.pids}
        servers = frozenset(before.pids[name] for name in ("postgres", "valkey") if name in before.pids)
        ended = end_leftovers(started, servers, LEFTOVER_SECONDS)
        if ended:
            self._say(f"The last run did not end in order; {len(ended)} processes it had left were stopped.")
        self._path.unlink(missing_ok=True)

    def _make_room(self) -> None:
        self._logs.mkdir(exist_ok=True)
        for log in self._logs.glob("*.log"):
            log.replace(log.with_suffix(".log.1"))
        metrics = self._data_dir / "metrics"
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir()

    def _servers(self) -> list[localstack.Server]:
        """Those to be started here: the ones no URL was given for."""
        given = [os.environ.get(f"AFORO_{name}_URL", "") for name in ("DATABASE", "REDIS")]
        self._owner_urls = [os.environ.get("AFORO_OWNER_URL", "") if given[0] else "", ""]
        if all(given):
            self._urls = given
            return []
        home = localstack.prepare(self._data_dir, self._say)
        if not given[0] and not (home.data / "postgres").exists():
            self._say("Setting up a database (once; a few seconds) ...")
        makers = (localstack.postgres, localstack.valkey)
        servers = [None if url else make(home) for url, make in zip(given, makers, strict=True)]
        self._urls = [server.url if server else url for server, url in zip(servers, given, strict=True)]
        self._owner_urls = [server.owner_url if server else url for server, url in zip(servers, self._owner_urls, strict=True)]
        return [server for server in servers if server]

    def _environment(self) -> dict[str, str]:
        """What the running processes get: the app's URLs, never the owners'."""
        return {
            **{name: value for name, value in os.environ.items() if name != "AFORO_OWNER_URL"},
            **self._variables,
            "AFORO_DATABASE_URL": self._urls[0],
            "AFORO_REDIS_URL": self._urls[1],
            "AFORO_HOST": HOST,
            "AFORO_PORT": str(self._port),
            "AFORO_METRICS_DIR": str(self._data_dir / "metrics"),
            "PYTHONUNBUFFERED": "1",
        }

    def _programs(self) -> list[Program]:
        worker = ("-m", "celery", "--app", "worker.app", "worker", "--concurrency", str(self._workers), "--loglevel", "WARNING")
        api = ("-m", "gunicorn", "--config", "python:api.server", "api.app:create_app_from_environment()")
        return [
            self._python("worker", worker),
            self._python("sweeper", ("-m", "worker.sweeper")),
            self._python("api", api, lambda: is_ready(self._origin)),
        ]

    def _python(self, name: str, arguments: tuple[str, ...], is_ready: Callable[[], bool] | None = None) -> Program:
        return Program(name, [sys.executable, *arguments], self._environment(), ROOT, is_ready=is_ready)

    def _migrate(self) -> None:
        command = [sys.executable, "-m", "core.migrations"]
        environment = self._environment()
        if self._owner_urls[0]:
            environment["AFORO_OWNER_URL"] = self._owner_urls[0]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=MIGRATION_SECONDS, check=False
        )
        if done.returncode:
            raise CannotStart(f"the database cannot be migrated.\n{done.stderr.strip()}")

    def _examples(self) -> None:
        """Something to look at: only in a database of our own that has no session yet."""
        settings = load(database_url=self._urls[0], redis_url=self._urls[1], host=HOST)
        engine = create_engine(settings.database_url, 1)
        try:
            queries = Queries(engine)
            self._is_new = queries.sessions(SessionSearch(open_only=False), 1)[0] == 0
        finally:
            engine.dispose()

    def _announce(self) -> None:
        client = Client(self._origin, key_from_environment())
        if getattr(self, "_is_new", False):
            for example in EXAMPLES:
                client.post("/api/sessions/", _example(*example))
        self._say(f"Aforo is ready: {self._origin}  (docs: {self._origin}/api/docs/)")
        first = _first_session(client)
        if first is not None and first.get("public"):
            self._say(f"Book in the browser: {self._origin}/s/{first['id']}")
        if self._environment().get("AFORO_AUTH") == "keys":
            self._say("Calls need a key: .venv/bin/aforo keys create --client me --scope read --scope reserve --scope manage")
        elif first is not None:
            self._say(f"Reserve a place in {first['title']!r}:")
            self._say(
                f"  curl -s -X POST {self._origin}/api/sessions/{first['id']}/reserve/ -H 'Content-Type: application/json' "
                '-H \'Prefer: wait=10\' -d \'{"name": "Ana", "email": "ana@example.org"}\''
            )

    def _changed(self, pids: dict[str, int]) -> None:
        pids = {"up": os.getpid(), **pids}
        started = {name: start for name, pid in pids.items() if name != "up" and (start := started_at(pid)) is not None}
        if self._ready:
            before = self._file.pids
            for name in pids.keys() - before.keys():
                self._say(f"{name} was started again (pid {pids[name]}).")
            for name in before.keys() - pids.keys():
                self._say(f"{name} died; it is started again shortly. Its log: {self._logs / name}.log")
        self._file = StackFile(self._origin, *self._urls, *self._owner_urls, pids, started)
        self._is_written = False
        self._write()

    def _write(self) -> None:
        """Put stack.json in place, unless it is. What runs goes on also where there is no room for it; then it is tried again."""
        if self._is_written:
            return
        try:
            self._file.write(self._path)
            self._is_written = True
        except OSError as exc:
            if not self._ready:
                raise
            if not self._is_told:
                self._say(f"{self._path} cannot be written, so that other commands may find nobody: {exc.strerror}.")
            self._is_told = True


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as exc:
            raise CannotStart(f"port {port} cannot be used: {exc.strerror}. Choose another one with --port.") from exc


def _example(title: str, description: str, location: str, days: int, capacity: int) -> dict[str, Any]:
    start = datetime.now(UTC).replace(hour=18, minute=0, second=0, microsecond=0) + timedelta(days=days)
    return {
        "title": title,
        "description": description,
        "location": location,
        "start_time": start.isoformat(),
        "end_time": (start + timedelta(hours=2)).isoformat(),
        "capacity": capacity,
        "public": True,
    }


def _first_session(client: Client) -> dict[str, Any] | None:
    """One that can still be reserved in."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    results = client.get(f"/api/sessions/?page_size=1&starts_after={now}").body.get("results") or [None]
    return results[0]


def is_ready(origin: str) -> bool:
    """Whether /readyz says so."""
    try:
        return Client(origin).get("/readyz").status == 200
    except NoAnswer:
        return False
