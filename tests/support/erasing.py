"""For tests of forgetting and pruning: the use cases in this process or in one that dies, and what tables and files hold."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2

from core.bootstrap import OwnerServices, owner_services
from core.erasure import Pruned
from core.forget import Forgotten
from core.model import CONFIGURE, ConfigureArguments
from tests.support.driving import Driver
from tests.support.processes import ROOT, python_program
from tests.support.stack import Deployment

LONG_AGO = timedelta(days=400)
AGE = timedelta(days=90)

PROGRAM = """
import sys
from datetime import timedelta
from core import prune
from core.bootstrap import owner_services
from core.settings import load
prune.ROWS_AT_ONCE = 10
services = owner_services(load())
if sys.argv[1] == "forget":
    services.forget(sys.argv[2], True, False)
else:
    services.prune(timedelta(days=90))
services.close()
"""

# Every column of every table that may hold something of a person, as text.
ROWS_WITH = """
SELECT (SELECT count(*) FROM reservations t WHERE t::text ILIKE %(it)s) + (SELECT count(*) FROM jobs t WHERE t::text ILIKE %(it)s)
     + (SELECT count(*) FROM unreadable t WHERE concat(reason, encode(content, 'escape')) ILIKE %(it)s)
     + (SELECT count(*) FROM batches t WHERE t::text ILIKE %(it)s) + (SELECT count(*) FROM incidents t WHERE t::text ILIKE %(it)s)
"""


@contextmanager
def owner(deployment: Deployment) -> Iterator[OwnerServices]:
    """What the owner of a deployment's tables may do."""
    services = owner_services(deployment.settings(owner_url=deployment.owner_url))
    try:
        yield services
    finally:
        services.close()


def forget(deployment: Deployment, name: str, cancel: bool = False, rewrite: bool = False) -> Forgotten:
    """Forget somebody by the name their address begins with."""
    with owner(deployment) as services:
        return services.forget(f"{name}@example.org", cancel, rewrite)


def prune(deployment: Deployment, age: timedelta = AGE) -> Pruned:
    """Remove what was over so long ago."""
    with owner(deployment) as services:
        return services.prune(age)


def in_a_process(deployment: Deployment, what: str, name: str = "", crash_at: str | None = None) -> int:
    """The same in a process of its own, in small steps, which may be told to die somewhere. Its exit status."""
    armed = {} if crash_at is None else {"AFORO_CRASH_AT": crash_at}
    words = ("-c", PROGRAM, what, f"{name}@example.org")
    program = python_program(what, {**deployment.operator_environment, **armed}, *words)
    return subprocess.run(program.command, env=program.environment, cwd=ROOT, timeout=60, check=False).returncode


def rows_with(deployment: Deployment, text: str) -> int:
    """In how many rows this text stands, in whatever case."""
    connection = psycopg2.connect(deployment.owner_url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(ROWS_WITH, {"it": f"%{text}%"})
            return cursor.fetchone()[0]
    finally:
        connection.close()


def end(driver: Driver, *sessions: int, ago: timedelta = LONG_AGO) -> None:
    """Move sessions so that they ended that long ago."""
    ms = round((datetime.now(UTC) - ago).timestamp() * 1000)
    times = ConfigureArguments(start_time=ms - 3_600_000, end_time=ms)
    receipts = driver.accept([(CONFIGURE, session, times) for session in sessions])
    driver.drain_all()
    assert driver.outcomes(receipts) == ["configured"] * len(sessions)


@contextmanager
def working(driver: Driver) -> Iterator[list[str]]:
    """Two drains in small batches and a look at the whole, again and again, beside what is done meanwhile. What differed."""
    stop, differences = threading.Event(), []

    def drain() -> None:
        with Driver(driver.deployment, batch_size=3) as other:
            while not stop.is_set():
                other.drain_all()

    def look() -> None:
        while not stop.is_set():
            differences.extend(driver.report().differences)

    threads = [threading.Thread(target=task) for task in (drain, drain, look)]
    for thread in threads:
        thread.start()
    try:
        yield differences
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def table_files(deployment: Deployment) -> list[Path]:
    """The files that Postgres keeps a database's tables and indexes in, as they are on disk now."""
    connection = psycopg2.connect(deployment.owner_url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")
            cursor.execute("SELECT current_setting('data_directory'), oid FROM pg_database WHERE datname = current_database()")
            folder, oid = cursor.fetchone()
    finally:
        connection.close()
    return [path for path in Path(folder, "base", str(oid)).iterdir() if path.is_file()]


def log_files(deployment: Deployment) -> list[Path]:
    """The files of Redis's append-only log."""
    settings = deployment.redis().config_get("dir", "appenddirname")
    return list(Path(settings["dir"], settings["appenddirname"]).iterdir())


def files_with(paths: list[Path], text: str) -> list[str]:
    """The files in which this text stands as it is."""
    return [path.name for path in paths if text.encode() in _bytes_of(path)]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # deleted since it was listed
        return b""
