"""The rights of the running app: all other tests run with them, these try what they do not allow.

That nothing more is even tried: tests/http/test_canary.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg2
import pytest
import redis
import yaml
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from sqlalchemy.engine import make_url

from core import migrations
from core.errors import MissingRight, SettingsConflict
from core.mailbox import connect
from core.tables import APP_RIGHTS, metadata
from ops.localstack import HOST, free_port
from ops.supervisor import Program
from tests.support.driving import Driver
from tests.support.processes import ROOT, Running
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until

FORBIDDEN = (
    "UPDATE jobs SET outcome = 'confirmed'",
    "UPDATE reservations SET email = 'x'",
    "UPDATE deployment SET partitions = 1",
    "UPDATE alembic_version SET version_num = '0'",
    "SELECT * FROM jobs FOR UPDATE",
    "SELECT setval('positions', 1)",
    *(f"DELETE FROM {table}" for table in APP_RIGHTS),
    *(f"TRUNCATE {table}" for table in APP_RIGHTS),
    *(f"DROP TABLE {table}" for table in APP_RIGHTS),
    *(f"ALTER TABLE {table} ADD COLUMN x int" for table in APP_RIGHTS),
    "CREATE TABLE mine (id int)",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "DROP INDEX reservations_one_live_per_person",
    "COPY jobs TO PROGRAM 'cat'",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT rolpassword FROM pg_authid",
    "ALTER SYSTEM SET fsync = off",
)


def as_user(url: str, user: str, password: str) -> str:
    """The same database, for somebody else."""
    return make_url(url).set(username=user, password=password).render_as_string(hide_password=False)


# Each by itself, so that the client library does not stop it first.
FORBIDDEN_IN_VALKEY = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "CONFIG SET appendfsync no", "CONFIG REWRITE",
    "CONFIG RESETSTAT", "SHUTDOWN", "ACL LIST", "ACL SETUSER aforo_app allkeys", "ACL WHOAMI", "MODULE LIST",
    "FUNCTION LIST", "FUNCTION FLUSH", "SCRIPT FLUSH", "SCRIPT KILL", "MONITOR", "SAVE", "BGSAVE", "REPLICAOF no one", "SYNC",
    "CLIENT LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "SWAPDB 0 1", "MOVE aforo:x 2", "SLOWLOG GET", "CLUSTER RESET",
    "GET other", "SET other 1", "DEL other", "SUBSCRIBE other", "PUBLISH other 1", "PSUBSCRIBE *", "RESTORE aforo:x 0 x",
    "MIGRATE 127.0.0.1 1 aforo:x 0 1", "SORT aforo:x", "COPY aforo:x other", "RENAME aforo:x other",
)  # fmt: skip


def may(client: redis.Redis, *command: str) -> bool:
    """Whether the server does this for this user."""
    try:
        client.execute_command(*command)
    except NoPermissionError:
        return False
    return True


def answers(client: redis.Redis) -> bool:
    """Whether the server is there."""
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def app(deployment: Deployment) -> Iterator[psycopg2.extensions.connection]:
    """A connection as the running app has it."""
    with closing(psycopg2.connect(deployment.database_url)) as connection:
        connection.autocommit = True
        yield connection


def test_the_app_reads_and_books_and_can_do_nothing_else(app: psycopg2.extensions.connection) -> None:
    allowed = []
    for statement in FORBIDDEN:
        with app.cursor() as cursor:
            try:
                cursor.execute(statement)
            except psycopg2.errors.InsufficientPrivilege:
                continue
            allowed.append(statement)
    assert allowed == []


def test_the_apps_user_of_valkey_can_do_nothing_else_either(deployment: Deployment) -> None:
    with closing(connect(deployment.redis_url)) as app:
        assert [command for command in FORBIDDEN_IN_VALKEY if may(app, *command.split())] == []


@pytest.mark.parametrize("call", ["'FLUSHALL'", "'KEYS', '*'", "'SCAN', '0'", "'GET', 'other'"])
def test_a_script_may_do_no_more_than_its_caller(deployment: Deployment, call: str) -> None:
    with closing(connect(deployment.redis_url)) as app, pytest.raises(ResponseError, match=r"(?i)permission|ACL"):
        app.eval(f"return redis.call({call})", 0)


def test_nobody_gets_in_without_a_password_and_none_can_be_read(deployment: Deployment) -> None:
    nobody = make_url(deployment.redis_url).set(username=None, password=None)
    with closing(connect(nobody.render_as_string())) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    with closing(connect(deployment.redis_url)) as app:
        settings = app.config_get("*")
        assert settings["appendfsync"] == "always"
        secret = make_url(deployment.redis_owner_url).password
        assert [name for name, value in settings.items() if value and secret in value] == []


def test_a_password_of_valkey_is_changed_without_a_gap(deployment: Deployment) -> None:
    new = as_user(deployment.redis_url, "aforo_app", "second")
    with closing(deployment.redis()) as owner, closing(connect(deployment.redis_url)) as old:
        owner.execute_command("ACL", "SETUSER", "aforo_app", ">second")
        try:
            for url in (deployment.redis_url, new):
                with closing(connect(url)) as app:
                    assert app.ping()
        finally:
            owner.execute_command("ACL", "SETUSER", "aforo_app", "<second")
        assert old.ping()
    with closing(connect(new)) as late, pytest.raises(AuthenticationError):
        late.ping()


def test_valkey_as_the_compose_file_starts_it_knows_the_same_users(servers: Servers, tmp_path: Path) -> None:
    compose = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text("utf-8"))
    _, *arguments = yaml.safe_load(compose)["services"]["valkey"]["command"]
    server, port = servers.valkey.program.command[0], free_port()
    program = Program("composed", [server, *arguments, "--port", str(port), "--bind", HOST], {}, tmp_path)
    running = Running(program, tmp_path)
    try:
        for user, password in (("aforo", "onlyforlocaluse"), ("aforo_app", "alsoforlocaluse")):
            client = connect(f"redis://{user}:{password}@{HOST}:{port}/0")
            until(partial(answers, client), 10, "it answers")
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
            assert may(client, "FLUSHALL") is (user == "aforo")
            client.close()
    finally:
        running.kill()


def test_its_role_is_nobody_special(deployment: Deployment, app: psycopg2.extensions.connection) -> None:
    (special,) = deployment.sql(
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = %s",
        app.info.user,
    )
    owners = deployment.sql("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert special == (False,)
    assert owners != []
    assert (app.info.user,) not in owners


def test_every_table_says_what_the_app_may_do_with_it() -> None:
    assert set(APP_RIGHTS) == set(metadata.tables) | {"alembic_version"}


def test_a_missing_right_is_told_and_does_not_count_against_a_command(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana")
    driver.deployment.sql("REVOKE INSERT ON jobs FROM aforo_app")
    for _ in range(5):
        with pytest.raises(MissingRight, match="AFORO_OWNER_URL"):
            driver.drain(driver.partition(session))
    settings = driver.deployment.settings(owner_url=driver.deployment.owner_url)
    migrations.upgrade(settings)  # which grants everything again
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"]
    driver.check(receipts)


def test_what_a_release_no_longer_needs_is_taken_back(deployment: Deployment) -> None:
    deployment.sql("GRANT ALL ON jobs TO aforo_app; GRANT UPDATE (outcome) ON jobs TO aforo_app")
    migrations.upgrade(deployment.settings(owner_url=deployment.owner_url))
    assert deployment.sql("SELECT has_any_column_privilege('aforo_app', 'jobs', 'UPDATE')") == [(False,)]
    assert deployment.sql("SELECT has_table_privilege('aforo_app', 'jobs', 'INSERT')") == [(True,)]


def test_only_the_owner_migrates(deployment: Deployment) -> None:
    with pytest.raises(MissingRight):
        migrations.upgrade(deployment.settings())


def test_a_role_that_is_not_there_is_made_with_its_password(deployment: Deployment) -> None:
    url = as_user(deployment.database_url, "Somebody %new", "pässword'%")
    migrations.upgrade(replace(deployment, database_url=url).settings(owner_url=deployment.owner_url))
    try:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_user, count(*) FROM jobs")
            assert cursor.fetchall() == [("Somebody %new", 0)]
    finally:
        deployment.sql('DROP OWNED BY "Somebody %new"; DROP ROLE "Somebody %new"'.replace("%", "%%"))


def test_a_role_that_nobody_may_make_is_asked_for(deployment: Deployment) -> None:
    deployment.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE ROLE modest LOGIN PASSWORD 'x'")
    deployment.sql("GRANT ALL ON SCHEMA public TO modest")
    owner, app = as_user(deployment.owner_url, "modest", "x"), as_user(deployment.database_url, "nobody", "x")
    settings = replace(deployment, database_url=app).settings(owner_url=owner)
    try:
        with pytest.raises(SettingsConflict, match=r"no database role nobody .* modest may not make it"):
            migrations.upgrade(settings)
    finally:
        deployment.sql("DROP OWNED BY modest; DROP ROLE modest")
