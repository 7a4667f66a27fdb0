"""A whole stack for one case: gunicorn, Celery workers and sweepers, each of which may be rigged, killed or stopped.

ops/supervisor.py starts again what dies, with its own back-off, as under `aforo up`: a worker that is killed again and again
is away for seconds, and others have to do without it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from core.doorbell import QUEUE, TASK, celery_app
from core.mailbox import key
from ops.supervisor import Program, Supervisor
from tests.fault.suite.books import PARTITIONS
from tests.fault.suite.rigged import Rig
from tests.support.processes import answers, children_of, python_program, sweeper_program, worker_program
from tests.support.proxy import Proxy
from tests.support.stack import Deployment
from tests.support.waiting import until

LOOK_SECONDS = 0.05
START_SECONDS = 60
API = ("-m", "gunicorn", "--config", "python:api.server", "api.app:create_app_from_environment()")


class Stage:
    """Use it in a `with`, or `close` it. Programs are named api, worker, worker-2 ..., sweeper, sweeper-2 ..."""

    def __init__(
        self,
        deployment: Deployment,
        folder: Path,
        *,
        workers: int = 1,
        pool: int = 2,
        sweepers: int = 1,
        rigs: Mapping[str, Rig] | None = None,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        redis_proxy: Proxy | None = None,
        broker_proxy: Proxy | None = None,
        **settings: str,
    ) -> None:
        """`pool`: processes of each worker. `settings`: variables for all, without AFORO_, in lower case. `environments` (more
        variables) and `rigs`: by the program's name. `redis_proxy`: everybody's way to Redis; `broker_proxy`: to the broker."""
        self.deployment = deployment
        self.folder = folder
        self.pool = pool
        self.url, self._environment = deployment.at_an_address(folder / "metrics", **settings)
        redis_url = deployment.redis_url
        self._environment["AFORO_BROKER_URL"] = broker_proxy.in_place_of(redis_url) if broker_proxy else redis_url
        if redis_proxy is not None:
            self._environment["AFORO_REDIS_URL"] = redis_proxy.in_place_of(redis_url)
        self._environments = environments or {}
        self._rigs = rigs or {}
        self._supervisor = Supervisor(folder, lambda pids: None)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)
        self.redis = deployment.redis()
        self._celery = celery_app(deployment.redis_url)
        try:
            self._start(workers, sweepers)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, workers: int, sweepers: int) -> None:
        for number in range(workers):
            self._add(_numbered("worker", number), lambda environment: worker_program(environment, self.pool))
        for number in range(sweepers):
            self._add(_numbered("sweeper", number), sweeper_program)
        self._add("api", lambda environment: python_program("api", environment, *API), self.is_ready)  # while those start, too
        self._thread.start()
        for number in range(workers):
            self.whole(_numbered("worker", number))

    def _add(self, name: str, make: Callable[[dict[str, str]], Program], is_ready: Callable[[], bool] | None = None) -> None:
        program = replace(make({**self._environment, **self._environments.get(name, {})}), name=name, is_ready=is_ready)
        self._supervisor.start(self._rigs[name].applied_to(program) if name in self._rigs else program)

    def _keep(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            self._supervisor.look()

    def close(self) -> None:
        """End all, without ceremony."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._supervisor.stop((), lambda: True)
        self._celery.close()
        self.redis.close()

    # -- its processes ---------------------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        return answers(f"{self.url}/readyz")

    def pid(self, name: str) -> int | None:
        """The pid of a program: of gunicorn's or the worker's first process, or the sweeper; None while it is not there."""
        return self._supervisor.pids().get(name)

    def children(self, name: str) -> list[int]:
        """The pids of a program's processes: the API's, or a worker's pool."""
        pid = self.pid(name)
        return [] if pid is None else children_of(pid)

    def names(self, sort: str) -> list[str]:
        """The programs of one sort that are running."""
        return [name for name in self._supervisor.pids() if name.partition("-")[0] == sort]

    def whole(self, name: str, seconds: float = START_SECONDS) -> list[int]:
        """The pids of a worker's pool, once all of them are there."""

        def pids() -> list[int]:
            found = self.children(name)
            return found if len(found) >= self.pool else []

        return until(pids, seconds, f"{name} has its processes")

    @contextmanager
    def stopped(self, *names: str) -> Iterator[None]:
        """Nobody of these programs' working processes does anything meanwhile."""
        pids = [pid for name in names for pid in self.children(name) or [self.pid(name)] if pid is not None]
        for pid in pids:
            send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                send(pid, signal.SIGCONT)

    def log(self, name: str) -> str:
        """What a program has written, over all its lives."""
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")

    def memory_bytes(self) -> dict[int, tuple[str, int]]:
        """By pid: the program, and what the process has in memory for itself."""
        found = {}
        for name, pid in self._supervisor.pids().items():
            for process in (pid, *children_of(pid)):
                with suppress(FileNotFoundError, ProcessLookupError, KeyError, subprocess.CalledProcessError):  # gone meanwhile
                    found[process] = (name, own_memory_bytes(process))
        return found

    # -- what waits ------------------------------------------------------------------------------------------------------

    def waiting(self) -> int:
        """How many commands wait in all mailboxes."""
        pipeline = self.redis.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipeline.xlen(key(partition, "mailbox"))
        return sum(pipeline.execute())

    def ring(self, times: int) -> None:
        """Wake workers for every partition, so many times."""
        for partition in range(PARTITIONS):
            for _ in range(times):
                self._celery.send_task(TASK, args=(partition,), queue=QUEUE, retry=False, ignore_result=True)

    def drained(self, seconds: float = 60.0) -> float:
        """Wait until nothing waits. How many seconds that took."""
        started = time.monotonic()
        until(lambda: self.waiting() == 0, seconds, "nothing waits in any mailbox")
        return time.monotonic() - started

    def caught_up(self, moment_ms: float, seconds: float = 60.0) -> None:
        """Wait until nothing waits any more of what was accepted before this moment (wall clock)."""
        until(lambda: self._oldest_ms() > moment_ms, seconds, "all that had waited is applied")

    def _oldest_ms(self) -> float:
        pipeline = self.redis.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipeline.xrange(key(partition, "mailbox"), count=1)
        return min((int(entries[0][0].partition(b"-")[0]) for entries in pipeline.execute() if entries), default=float("inf"))


def _numbered(sort: str, number: int) -> str:
    return sort if number == 0 else f"{sort}-{number + 1}"


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to one process. Whether it was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def own_memory_bytes(pid: int) -> int:
    """Resident memory without what is shared with others on purpose (Postgres's buffers), where the system tells them apart."""
    if not Path("/proc/self/status").exists():
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=True)
        return 1024 * int(shown.stdout)
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines())
    return 1024 * (int(fields["VmRSS"].split()[0]) - int(fields.get("RssShmem", "0").split()[0]))
