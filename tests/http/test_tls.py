"""TLS to both servers, Celery's connection included, and no connection to a server that cannot prove who it is.

The wheels' servers have no TLS, so these are Debian's. Where they are missing this is skipped; in CI, which installs them, it
fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError

from core import migrations
from core.doorbell import celery_app
from core.errors import Unavailable
from core.mailbox import connect
from core.queries import Queries
from core.store import create_engine
from ops import localstack, verify
from ops.supervisor import Program
from tests.conftest import temporary_folder
from tests.support.http import Api
from tests.support.processes import Running
from tests.support.stack import Deployment, Stack
from tests.support.waiting import until

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@dataclass(frozen=True)
class Authority:
    """Somebody who signs certificates."""

    certificate: Path
    key: Path

    @staticmethod
    def new(folder: Path, name: str) -> Authority:
        found = Authority(folder / f"{name}.pem", folder / f"{name}.key")
        openssl("-keyout", found.key, "-out", found.certificate, "-subj", f"/CN={name}")
        return found

    def sign(self, folder: Path, name: str) -> tuple[Path, Path]:
        """A certificate for this machine, and its key."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        names = f"subjectAltName=DNS:localhost,IP:{localstack.HOST}"
        signer = ("-CA", self.certificate, "-CAkey", self.key)
        openssl(*signer, "-keyout", key, "-out", certificate, "-subj", f"/CN={name}", "-addext", names)
        return certificate, key


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", "req", "-x509", *CURVE, *arguments], capture_output=True, timeout=30, check=True)


def debians_servers() -> tuple[Path, Path]:
    """Postgres's folder of binaries and redis-server (or valkey-server)."""
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    cache = shutil.which("valkey-server") or shutil.which("redis-server")
    if postgres and cache and shutil.which("openssl"):
        return postgres[-1].parent, Path(cache)
    missing = "TLS IS NOT TESTED: it needs Debian's postgresql, redis-server and openssl (apt-get install)"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


class Secure:
    """Both servers, which talk TLS and nothing else."""

    def __init__(self, folder: Path) -> None:
        binaries, cache = debians_servers()
        authority = Authority.new(folder, "authority")
        home = replace(localstack.prepare(folder, lambda line: None), binaries=binaries, valkey_server=cache)
        postgres, valkey = localstack.postgres(home), localstack.valkey(home)
        certificate, key = authority.sign(folder, "servers")
        if home.user is not None:
            os.chown(key, home.user, -1)
        (home.data / "postgres" / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n", "ascii")
        verified = f"?sslmode=verify-full&sslrootcert={authority.certificate}"
        trusted = f"?ssl_ca_certs={authority.certificate}"
        urls = (postgres.url + verified, valkey.url + trusted, postgres.owner_url + verified, valkey.owner_url + trusted)
        self.deployment = Deployment(*(url.replace("redis://", "rediss://") for url in urls))
        port = valkey.url.rpartition(":")[2].partition("/")[0]
        self._running = ExitStack()
        self._run(folder, postgres.program, "-c", "ssl=on", "-c", f"ssl_cert_file={certificate}", "-c", f"ssl_key_file={key}")
        files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no")
        self._run(folder, valkey.program, "--port", "0", "--tls-port", port, *files)

    def _run(self, folder: Path, program: Program, *options: str | Path) -> None:
        command = [*program.command, *map(str, options)]
        running = Running(replace(program, command=command, is_ready=None), folder)
        self._running.callback(running.kill)

    def answers(self) -> bool:
        """Whether both do."""
        try:
            self.deployment.sql("SELECT 1")
            return bool(self.deployment.redis().ping())
        except Exception:
            return False

    def close(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with temporary_folder("tls") as path:
        yield path


@pytest.fixture(scope="module")
def secure(folder: Path) -> Iterator[Secure]:
    """Both servers, migrated."""
    found = Secure(folder)
    try:
        until(found.answers, 30, "both servers answer over TLS")
        migrations.upgrade(found.deployment.settings(owner_url=found.deployment.owner_url))
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def stranger(secure: Secure, folder: Path) -> Path:
    """The certificate of an authority that has signed nothing here."""
    return Authority.new(folder, "stranger").certificate


def test_every_process_works_over_tls_alone(secure: Secure, folder: Path) -> None:
    deployment = secure.deployment
    stack = Stack(deployment, folder)
    try:
        with Api(stack.url) as api:
            session = api.new_session()
            assert api.reserve(session).json()["outcome"] == "confirmed"
        with closing(celery_app(deployment.redis_url)) as broker:
            until(lambda: broker.control.inspect(timeout=1).ping(), 30, "the worker answers through the broker")
        encrypted = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'aforo_app'"
        assert deployment.sql(encrypted) == [(True,)]
    finally:
        for process in (stack.api, stack.worker, stack.sweeper):
            process.kill()  # nothing here has to last
        stack.close()
    assert verify.run(deployment.database_url, deployment.redis_url).differences == []


@pytest.mark.parametrize("words", ["?ssl_ca_certs={stranger}", ""], ids=["signed by a stranger", "nothing said"])
def test_a_server_that_cannot_prove_who_it_is_gets_no_password(secure: Secure, stranger: Path, words: str) -> None:
    url = secure.deployment.redis_url.partition("?")[0] + words.format(stranger=stranger)
    with closing(connect(url)) as client, pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        client.ping()
    refused = pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED")
    with closing(celery_app(url)) as app, app.connection_for_write() as connection, refused:
        connection.ensure_connection(max_retries=1, timeout=5)


def test_neither_does_a_postgres_that_cannot(secure: Secure, stranger: Path) -> None:
    url = f"{secure.deployment.database_url.partition('?')[0]}?sslmode=verify-full&sslrootcert={stranger}"
    with pytest.raises(Unavailable):
        Queries(create_engine(url, 1)).partitions()
    plain = secure.deployment.database_url.partition("?")[0] + "?sslmode=disable"
    with pytest.raises(Unavailable):
        Queries(create_engine(plain, 1)).partitions()
