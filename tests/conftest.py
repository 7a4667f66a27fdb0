"""Fixtures: real Postgres and Valkey for the whole run, a fresh deployment for a test, a running stack for many."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.stack import Deployment, Servers, Stack


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """One Postgres and one Valkey for the whole run."""
    with _folder("servers") as folder:
        servers = Servers(folder)
        try:
            yield servers
        finally:
            servers.close()


@pytest.fixture
def deployment(servers: Servers) -> Iterator[Deployment]:
    """A migrated database and an empty Redis for one test."""
    found = servers.deployment()
    yield found
    servers.drop(found)


@pytest.fixture(scope="session")
def live_api(servers: Servers) -> Iterator[Stack]:
    """Gunicorn, a Celery worker and the sweeper for all tests that share them; each makes sessions of its own."""
    with _folder("live") as folder:
        stack = Stack(servers.deployment(), folder)
        try:
            yield stack
        finally:
            stack.close()


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """A folder of the system's temporary space that the servers' user can enter, which pytest's own are not for root."""
    path = Path(tempfile.mkdtemp(prefix=f"aforo-test-{name}-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
