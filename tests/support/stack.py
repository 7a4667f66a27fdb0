"""Deployments for tests: a migrated database and an empty Redis, and whole stacks of processes on them."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg2
import redis

from core import migrations
from core.mailbox import connect
from core.settings import Settings
from ops import localstack
from ops.supervisor import Program
from tests.support.processes import Running, answers, python_program, sweeper_program, worker_program

REDIS_DATABASES = 16
PARTITIONS = 16  # more than the default, so that tests meet commands of many lanes
TEMPLATE = "aforo_template"
_names = itertools.count(1)


@dataclass(frozen=True)
class Deployment:
    """A database and a Redis of one's own, and the settings that name them: as the app, and as who owns them."""

    database_url: str
    redis_url: str
    owner_url: str
    redis_owner_url: str
    partitions: int = PARTITIONS

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a process of this deployment gets."""
        return {
            "AFORO_DATABASE_URL": self.database_url,
            "AFORO_REDIS_URL": self.redis_url,
            "AFORO_PARTITIONS": str(self.partitions),
            "AFORO_LOG_LEVEL": "warning",
        }

    @property
    def operator_environment(self) -> dict[str, str]:
        """The variables of somebody who migrates."""
        return {**self.environment, "AFORO_OWNER_URL": self.owner_url}

    def at_an_address(self, metrics: Path, **settings: str) -> tuple[str, dict[str, str]]:
        """An address for an API, and the variables of processes that serve at it and have their metrics in that new folder.
        `settings`: more variables, without their prefix, in lower case."""
        metrics.mkdir()
        port = localstack.free_port()
        more = {f"AFORO_{name.upper()}": value for name, value in settings.items()}
        environment = {**self.environment, "AFORO_PORT": str(port), "AFORO_METRICS_DIR": str(metrics), **more}
        return f"http://{localstack.HOST}:{port}", environment

    def settings(self, **overrides: object) -> Settings:
        """The same as `environment` for use in this process."""
        given: dict[str, Any] = {"partitions": self.partitions, **overrides}
        return Settings(database_url=self.database_url, redis_url=self.redis_url, **given)

    def redis(self) -> redis.Redis:
        """A client of its Redis that may do everything."""
        return connect(self.redis_owner_url)

    def cut_connections(self, kind: str) -> None:
        """End what is connected to its Redis database, `normal` connections or `pubsub`; other stacks keep theirs."""
        database = self.redis_url.rpartition("/")[2]
        with self.redis() as redis:
            own = redis.client_id()
            for one in redis.client_list(_type=kind):
                if one["db"] == database and int(one["id"]) != own:
                    redis.client_kill_filter(_id=one["id"])

    def sql(self, statement: str, *parameters: object) -> list[tuple]:
        """Run one statement as the owner, in a transaction of its own; its rows, if it has any."""
        connection = psycopg2.connect(self.owner_url, options="-c default_transaction_read_only=off")
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


class Servers:
    """One Postgres and one Valkey, and fresh deployments on them. Closed with `close`."""

    def __init__(self, folder: Path, partitions: int = PARTITIONS) -> None:
        self.folder = folder
        self._partitions = partitions
        self._free = list(range(1, REDIS_DATABASES))
        home = localstack.prepare(folder, lambda line: None)
        servers = (localstack.postgres(home), localstack.valkey(home))
        self.database_url, self.redis_url = (server.url for server in servers)
        self.owner_url, self.redis_owner_url = (server.owner_url for server in servers)
        with ExitStack() as self._running:
            self.postgres, self.valkey = (self._run(server.program) for server in servers)
            self._admin("CREATE DATABASE " + TEMPLATE)
            template = self._deployment(TEMPLATE, 0)
            migrations.upgrade(template.settings(owner_url=template.owner_url))
            self._running = self._running.pop_all()

    def deployment(self, first_key: str | None = None) -> Deployment:
        """A new migrated database, and a Redis database that nobody else has, empty. Give it back with `drop`."""
        name = f"aforo_{next(_names)}"
        self._admin(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        found = self._deployment(name, self._free.pop(0))  # given back longest ago: whoever had it is gone by now
        found.redis().flushdb()
        if first_key is not None:
            migrations.upgrade(found.settings(owner_url=found.owner_url, first_key=first_key))
        return found

    def drop(self, deployment: Deployment) -> None:
        """Take a deployment back, whoever is still connected to its database."""
        self._admin(f"DROP DATABASE {deployment.database_url.rpartition('/')[2]} WITH (FORCE)")
        self._free.append(int(deployment.redis_url.rpartition("/")[2]))

    def close(self) -> None:
        """Stop both."""
        self._running.close()

    def _run(self, program: Program) -> Running:
        running = Running(program, self.folder)
        self._running.callback(running.kill)  # nothing here has to last
        return running

    def _deployment(self, database: str, redis_database: int) -> Deployment:
        return Deployment(
            _named(self.database_url, database),
            _named(self.redis_url, redis_database),
            _named(self.owner_url, database),
            _named(self.redis_owner_url, redis_database),
            self._partitions,
        )

    def _admin(self, statement: str) -> None:
        connection = psycopg2.connect(_named(self.owner_url, "postgres"))
        connection.autocommit = True
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()


def _named(url: str, database: object) -> str:
    return f"{url.rpartition('/')[0]}/{database}"


class Stack:
    """A deployment with gunicorn, a Celery worker and the sweeper running on it."""

    def __init__(self, deployment: Deployment, folder: Path, **settings: str) -> None:
        """`settings`: more variables, without their prefix, in lower case."""
        self.deployment = deployment
        self.database_url, self.redis_url = deployment.database_url, deployment.redis_url
        self.url, self.environment = deployment.at_an_address(folder / "metrics", **settings)
        with ExitStack() as self._running:
            self.api = self._run(replace(self._api_program(), is_ready=self.is_ready), folder)
            self.worker = self._run(worker_program(self.environment), folder)
            self.sweeper = self._run(sweeper_program(self.environment), folder)
            self._running = self._running.pop_all()

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        return answers(f"{self.url}/readyz")

    def close(self) -> None:
        """Stop everything."""
        self._running.close()

    def _run(self, program: Program, folder: Path) -> Running:
        running = Running(program, folder)
        self._running.callback(running.stop)
        return running

    def _api_program(self) -> Program:
        command = ("-m", "gunicorn", "--config", "python:api.server", "api.app:create_app_from_environment()")
        return python_program("api", self.environment, *command)
