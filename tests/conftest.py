"""Fixtures: real Postgres and Valkey for the whole run, a fresh deployment for a test, a running stack for many."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvloop

from tests.support.http import Api
from tests.support.serving import Serve, Serving
from tests.support.stack import Deployment, Servers, Stack

# An example takes as long as it takes on a machine where others work too; what is set besides, as it is for CI, stays.
SLOW = (hypothesis.HealthCheck.too_slow,)
hypothesis.settings.register_profile("patient", hypothesis.settings(), deadline=None, suppress_health_check=SLOW)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """One Postgres and one Valkey for the whole run."""
    with temporary_folder("servers") as folder:
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
    with temporary_folder("live") as folder:
        stack = Stack(servers.deployment(), folder)
        try:
            yield stack
        finally:
            stack.close()


@pytest.fixture
def api(live_api: Stack) -> Iterator[Api]:
    """A client of that stack."""
    with Api(live_api.url) as client:
        yield client


@pytest.fixture
def own_servers() -> Iterator[Servers]:
    """A Postgres and a Valkey that a test may stop, kill and set up differently."""
    with temporary_folder("own") as folder:
        servers = Servers(folder)
        try:
            yield servers
        finally:
            servers.close()


@pytest.fixture
def stacks(servers: Servers) -> Iterator[Callable[..., Stack]]:
    """Makes stacks that a test may stop, kill and set up differently, on the shared servers or on others."""
    with _stacks(servers) as start:
        yield start


@pytest.fixture(scope="module")
def module_stacks(servers: Servers) -> Iterator[Callable[..., Stack]]:
    """The same for all tests of a file."""
    with _stacks(servers) as start:
        yield start


@pytest.fixture
def serve(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Runs something with a server of its own."""

    def run(what: Callable[[Serving], Awaitable[None]], on: Deployment = deployment, **settings: Any) -> None:
        async def whole() -> None:
            async with Serving(on, monkeypatch, **settings) as serving:
                await what(serving)

        uvloop.run(whole())  # as gunicorn runs it

    return run


@contextmanager
def _stacks(servers: Servers) -> Iterator[Callable[..., Stack]]:
    with ExitStack() as running:

        def start(on: Servers = servers, first_key: str | None = None, **settings: str) -> Stack:
            folder = running.enter_context(temporary_folder("stack"))
            deployment = on.deployment(first_key)
            if on is servers:
                running.callback(servers.drop, deployment)
            stack = Stack(deployment, folder, **settings)
            running.callback(stack.close)
            return stack

        yield start


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A folder of the system's temporary space that the servers' user can enter, which pytest's own are not for root."""
    path = Path(tempfile.mkdtemp(prefix=f"aforo-test-{name}-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
