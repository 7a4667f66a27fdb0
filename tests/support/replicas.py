"""Second servers: a standby that follows a Postgres, and a replica that follows a Valkey, each over a port that a test chooses.

They are made as an operator makes them, from the same binaries, and become the first by a command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg2
from redis.exceptions import RedisError
from sqlalchemy.engine import make_url

from core.mailbox import connect
from ops import localstack
from ops.localstack import HOST, OWNER
from ops.supervisor import Program
from tests.support.damage import kill_postgres
from tests.support.processes import Running
from tests.support.proxy import Proxy
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until

NAME = "standby"
REPLICA = "replica"
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
    if name:
        until(lambda: admin(owner_url, "SELECT sync_state FROM pg_stat_replication") == [("sync",)], 15, "commits wait")


@dataclass(slots=True)
class Replica:
    """A Valkey that follows another. `owner_url` has no database's number."""

    running: Running
    owner_url: str
    port: int

    def is_connected(self) -> bool:
        """Whether it has everything and is told what comes."""
        with closing(connect(f"{self.owner_url}/0")) as client:
            return client.info("replication")["master_link_status"] == "up"

    def has_all_of(self, primary_url: str) -> bool:
        """Whether it has received all that the primary has written."""
        with closing(connect(primary_url)) as primary, closing(connect(f"{self.owner_url}/0")) as own:
            written = primary.info("replication")["master_repl_offset"]
            return own.info("replication")["slave_repl_offset"] >= written

    def promote(self) -> None:
        """Make it take writes."""
        with closing(connect(f"{self.owner_url}/0")) as client:
            client.replicaof("NO", "ONE")


def replica(servers: Servers, folder: Path, port: int | None = None) -> Replica:
    """Have a second Valkey follow the running one, over `port` if one is given (a proxy's)."""
    primary = servers.valkey.program
    home, own_port = _own_folder(folder / REPLICA, primary), localstack.free_port()
    source, password = port_of(servers.redis_owner_url), make_url(servers.redis_owner_url).password
    own = {"port": own_port, "dir": f'"{home}"', "primaryuser": OWNER, "primaryauth": password}
    own |= {"replicaof": f"{HOST} {port or source}", "repl-diskless-sync-delay": 0}
    given = Path(primary.command[-1]).read_text("utf-8").splitlines()
    lines = [line for line in given if line.split()[0] not in own] + [f"{name} {value}" for name, value in own.items()]
    configuration = home / "valkey.conf"
    configuration.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    owner_url = servers.redis_owner_url.replace(f":{source}/", f":{own_port}/").rpartition("/")[0]
    program = replace(primary, name=REPLICA, command=[primary.command[0], str(configuration)], folder=home, is_ready=None)
    found = Replica(Running(program, folder), owner_url, own_port)
    until(lambda: _is_up(found), 30, "the replica follows")
    return found


def with_both(deployment: Deployment, port: int) -> Deployment:
    """The same deployment with one host more: this one is asked first, and used if it takes writes."""
    database_url, owner_url = (url.replace("@", f"@{HOST}:{port},") for url in (deployment.database_url, deployment.owner_url))
    return replace(deployment, database_url=database_url, owner_url=owner_url)


def _own_folder(folder: Path, program: Program) -> Path:
    folder.mkdir(mode=0o700)
    if program.user is not None:
        os.chown(folder, program.user, -1 if program.group is None else program.group)
    return folder


def _is_up(found: Replica) -> bool:
    try:
        return found.is_connected()
    except RedisError:
        return False


def _answers(url: str) -> bool:
    try:
        admin(url, "SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True


@dataclass(slots=True)
class Pair:
    """A Postgres, its standby, and the line between them. `deployment` names both servers."""

    servers: Servers
    line: Proxy
    standby: Standby
    deployment: Deployment

    def cut_the_line(self) -> None:
        """What the first one writes does not arrive any more; neither of them hears of it."""
        self.line.go_half_open()

    def fail_over(self) -> None:
        """The first one is gone, the second takes its place."""
        kill_postgres(self.servers.postgres)
        self.standby.promote()


@contextmanager
def paired(servers: Servers) -> Iterator[Pair]:
    """A fresh deployment on these servers and on a standby, which ends; the first server is whole again afterwards."""
    first = servers.deployment()
    with _folder_of(servers, NAME) as folder, Proxy(port_of(servers.owner_url)) as line:
        second = standby(servers, folder, line.port)
        try:
            yield Pair(servers, line, second, with_both(first, second.port))
        finally:
            second.running.kill()
            _revive(servers.postgres)
            commits_wait_for(servers.owner_url, "")


@dataclass(slots=True)
class Couple:
    """A Valkey, its replica, the line between them, and the address that is moved from one to the other."""

    servers: Servers
    line: Proxy
    address: Proxy
    replica: Replica
    deployment: Deployment

    def cut_the_line(self) -> None:
        """What the first one writes does not arrive any more; neither of them hears of it."""
        self.line.go_half_open()

    def mend_the_line(self) -> None:
        """The replica connects again and gets what it has missed."""
        self.line.refuse()
        self.line.pass_on()
        until(self.replica.is_connected, 30, "the replica follows again")

    def fail_over(self) -> None:
        """The first one is gone, the second takes its place and its address."""
        self.servers.valkey.kill()
        self.replica.promote()
        self.address.point_at(self.replica.port)

    def come_back(self) -> None:
        """The first one is there again, as the replica of the second."""
        self.servers.valkey.start()
        with closing(connect(self.servers.redis_owner_url)) as client:
            client.config_set("primaryuser", OWNER, "primaryauth", make_url(self.servers.redis_owner_url).password)
            client.replicaof(HOST, self.replica.port)
            until(lambda: client.info("replication")["master_link_status"] == "up", 30, "the first one follows")


@contextmanager
def coupled(servers: Servers) -> Iterator[Couple]:
    """A fresh deployment on these servers, with a replica of the Valkey, which ends; the first one is whole again afterwards."""
    first, port = servers.deployment(), port_of(servers.redis_url)
    with _folder_of(servers, REPLICA) as folder, Proxy(port) as line, Proxy(port) as address:
        second = replica(servers, folder, line.port)
        urls = {name: address.in_place_of(getattr(first, name)) for name in ("redis_url", "redis_owner_url")}
        try:
            yield Couple(servers, line, address, second, replace(first, **urls))
        finally:
            second.running.kill()
            servers.valkey.kill()  # it may follow the other
            _revive(servers.valkey)


def _revive(server: Running) -> None:
    if server.process.poll() is not None:
        server.start()


@contextmanager
def _folder_of(servers: Servers, name: str) -> Iterator[Path]:
    """Beside the first server's, so that its user can enter it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=servers.folder))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
