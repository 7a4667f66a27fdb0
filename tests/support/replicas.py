"""Second servers: a standby that follows a Postgres, and a replica that follows a Valkey, each over a port that a test chooses.

They are made as an operator makes them, from the same binaries, and become the first by a command.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg2

from ops import localstack
from ops.localstack import HOST
from ops.supervisor import Program
from tests.support.processes import Running
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until

NAME = "standby"
COPY_SECONDS = 60


def port_of(url: str) -> int:
    """The port of a server's URL."""
    return int(url.rpartition("@")[2].partition("/")[0].rpartition(":")[2])


def admin(url: str, statement: str) -> list[tuple]:
    """Run one statement outside of any transaction. Its rows, if it has any."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@dataclass(slots=True)
class Standby:
    """A Postgres that follows another."""

    running: Running
    owner_url: str
    port: int

    def is_streaming(self, primary_url: str) -> bool:
        """Whether the primary sends to it, and it has what there is."""
        rows = admin(primary_url, f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{NAME}' AND state = 'streaming'")
        return bool(rows)

    def has_received(self, primary_url: str) -> bool:
        """Whether it has on disk all that the primary has written."""
        ((written,),) = admin(primary_url, "SELECT pg_current_wal_flush_lsn()")
        return admin(self.owner_url, f"SELECT pg_last_wal_receive_lsn() >= '{written}'") == [(True,)]

    def promote(self) -> None:
        """Make it take writes."""
        assert admin(self.owner_url, "SELECT pg_promote()") == [(True,)]


def standby(servers: Servers, folder: Path, port: int | None = None) -> Standby:
    """Copy the running Postgres and have the copy follow it, over `port` if one is given (a proxy's)."""
    primary = servers.postgres.program
    cluster = Path(primary.command[primary.command.index("-D") + 1])
    copy, own_port = _own_folder(folder / NAME, primary), localstack.free_port()
    url = servers.owner_url.replace(f":{port_of(servers.owner_url)}/", f":{port or port_of(servers.owner_url)}/")
    source = f"{url}?application_name={NAME}"
    made = subprocess.run(
        [Path(primary.command[0]).with_name("pg_basebackup"), "-D", copy, "-d", source, "-R", "-X", "stream", "-c", "fast"],
        capture_output=True, text=True, timeout=COPY_SECONDS, check=False, cwd=folder, env=primary.environment,
        user=primary.user, group=primary.group, extra_groups=[] if primary.user is not None else None,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    old = {str(cluster): str(copy), f"port={port_of(servers.owner_url)}": f"port={own_port}"}
    command = [old.get(word, word) for word in primary.command]
    owner_url = servers.owner_url.replace(f":{port_of(servers.owner_url)}/", f":{own_port}/")
    program = replace(primary, name=NAME, command=command, is_ready=lambda: _answers(owner_url))
    found = Standby(Running(program, folder), owner_url, own_port)
    until(lambda: found.is_streaming(servers.owner_url), 30, "the standby follows")
    return found


def commits_wait_for(owner_url: str, name: str) -> None:
    """From now on a commit waits until this standby has it on disk; '' for none."""
    admin(owner_url, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    admin(owner_url, "SELECT pg_reload_conf()")
    wanted = "sync" if name else "async"
    until(lambda: admin(owner_url, "SELECT sync_state FROM pg_stat_replication") == [(wanted,)], 15, f"the standby is {wanted}")


def with_both(deployment: Deployment, port: int) -> Deployment:
    """The same deployment with one host more: this one is asked first, and used if it takes writes."""
    database_url, owner_url = (url.replace("@", f"@{HOST}:{port},") for url in (deployment.database_url, deployment.owner_url))
    return replace(deployment, database_url=database_url, owner_url=owner_url)


def _own_folder(folder: Path, program: Program) -> Path:
    folder.mkdir(mode=0o700)
    if program.user is not None:
        os.chown(folder, program.user, -1 if program.group is None else program.group)
    return folder


def _answers(url: str) -> bool:
    try:
        admin(url, "SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True
