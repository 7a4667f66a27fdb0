"""The command line: every command against a running stack, every foreseeable mistake as one plain line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.mailbox import key
from core.model import partition_of_session
from ops.localstack import free_port
from ops.stackfile import StackFile
from tests.support.driving import KILLED, Driver
from tests.support.processes import ROOT
from tests.support.stack import Deployment, Stack

Run = Callable[..., subprocess.CompletedProcess[str]]


def aforo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as from a shell whose environment knows nothing of Aforo."""
    given = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "COLUMNS": "200", **environment}
    command = [sys.executable, "-m", "ops.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def run(live_api: Stack, tmp_path: Path) -> Run:
    """Run a command with the running stack's stack.json."""
    urls = (live_api.url, live_api.database_url, live_api.redis_url, live_api.deployment.owner_url)
    StackFile(*urls).write(tmp_path / "stack.json")
    return lambda *arguments, **environment: aforo(*arguments, "--data-dir", str(tmp_path), **environment)


def create(run: Run, capacity: int = 2) -> int:
    times = ("--start", "2031-05-01T18:00:00", "--end", "2031-05-01T20:00:00")
    done = run("sessions", "create", "--title", "From the shell", *times, "--capacity", str(capacity))
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout.split()[1].rstrip(":"))


def test_a_client_can_do_everything_from_the_shell(run: Run) -> None:
    session = create(run)
    assert json.loads(run("sessions", "list", "--json").stdout)[-1]["id"] <= session
    assert "From the shell" in run("sessions", "list", "--all").stdout
    who = ("--name", "Ana", "--email", "ana@example.org")
    done = run("reserve", str(session), *who, "--key", "from-the-shell")
    assert (done.returncode, done.stdout.startswith("confirmed: number 1 of session")) == (0, True)
    again = json.loads(run("reserve", str(session), *who, "--key", "from-the-shell", "--json").stdout)
    assert (again["outcome"], again["seq"]) == ("confirmed", 1)
    refused = run("reserve", str(session), *who)
    assert (refused.returncode, refused.stdout.startswith("duplicate: number 2")) == (1, True)
    queued = run("cancel", str(session), "--email", "ana@example.org", "--no-wait")
    assert queued.returncode == 0
    job = run("job", queued.stdout.split()[-1])
    assert (job.returncode, "number 3" in job.stdout) == (0, True)


def test_keys_are_made_listed_and_revoked_from_the_shell(run: Run) -> None:
    made = run("keys", "create", "--client", "shop", "--scope", "reserve", "--scope", "read", "--days", "7")
    assert made.returncode == 0
    key_id, secret = made.stdout.strip().split("_")[1:]
    assert (len(secret), secret in made.stderr) == (64, False)
    (row,) = [row for row in json.loads(run("keys", "list", "--json").stdout) if row["id"] == key_id]
    (shown,) = [line.split() for line in run("keys", "list").stdout.splitlines() if line.startswith(key_id)]
    assert shown[1:7] == ["shop", "read", "reserve", "valid", row["created"][:10], row["created"][11:16]]
    assert (row["client"], row["scopes"], row["state"], row["expires"] > row["created"]) == (
        "shop",
        ["read", "reserve"],
        "valid",
        True,
    )
    assert secret not in run("keys", "list").stdout
    assert run("keys", "revoke", key_id).returncode == 0
    assert "revoked" in run("keys", "list").stdout
    unknown = run("keys", "revoke", "000000000000")
    assert (unknown.returncode, unknown.stderr) == (1, "There is no key with the id 000000000000.\n")
    nameless = run("keys", "create", "--client", "no spaces", "--scope", "read")
    assert (nameless.returncode, nameless.stderr.count("\n")) == (1, 1)


def test_an_owner_can_do_everything_from_the_shell(run: Run) -> None:
    session = create(run, capacity=1)
    said = [
        run("sessions", "configure", str(session), "--capacity", "2", "--waitlist", "5", "--policy", "fill", "--max-seats", "3"),
        run("reserve", str(session), "--name", "Ana", "--email", "ana@example.org", "--seats", "2"),
        run("reserve", str(session), "--name", "Bo", "--email", "bo@example.org"),
        run("cancel", str(session), "--email", "ana@example.org", "--seats", "1"),
        run("sessions", "close", str(session)),
        run("sessions", "reopen", str(session)),
        run("sessions", "cancel", str(session)),
    ]
    assert [done.returncode for done in said] == [0] * 7
    outcomes = [done.stdout.partition(":")[0] for done in said]
    assert outcomes == ["resized", "confirmed", "waitlisted", "reduced", "session_closed", "session_reopened", "cancelled"]
    assert "place 1 in the waitlist" in said[2].stdout
    refused = run("sessions", "reopen", str(session))
    assert (refused.returncode, refused.stdout.startswith("session_cancelled")) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reserve", "999999999", "--name", "Ana", "--email", "a@example.org"), "There is no session with this id."),
        (("cancel", "999999999", "--email", "a@example.org"), "There is no session with this id."),
        (("job", "00000000-0000-8000-8000-000000000000"), "There is no job with this id."),
        (("quarantine", "show", "00000000-0000-8000-8000-000000000000"), "No command in quarantine"),
        (("quarantine", "show", "x"), "no job id"),
        (("job", "a job of ñ"), "There is no job with this id."),
        (("reserve", "1", "--name", "Ana", "--email", "a@example.org", "--api", "ftp://x"), "--api must begin with"),
        (("sessions", "list", "--api", "http://no host"), "This cannot be sent to http://no host"),
        (("sessions", "list", "--api", "http://[::1"), "This cannot be sent to http://[::1"),
        (("reserve", "1", "--name", "Ana", "--email", "a@example.org", "--key", "of\ntwo lines"), "This cannot be sent"),
    ],
)
def test_a_mistake_is_one_plain_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (1, "", 1)
    assert words in done.stderr


def test_wrong_fields_are_named(run: Run) -> None:
    done = run("reserve", str(create(run)), "--name", " ", "--email", "ana")
    assert done.returncode == 1
    assert "name: must not be empty" in done.stderr
    assert "email: must be an e-mail address" in done.stderr
    nothing = run("sessions", "configure", str(create(run)))
    assert nothing.stderr.splitlines() == ["Some fields are missing or wrong.", "  name at least one field to change"]


def test_wrong_usage_is_exit_status_2() -> None:
    for arguments in (("reserve",), ("dance",), ("up", "--port", "0"), ("demo", "--people", "0")):
        assert aforo(*arguments).returncode == 2
    assert "AFORO_PORT" in aforo("up", AFORO_PORT="0").stderr
    assert "AFORO_WORKER_PROCESSES" in aforo("up", AFORO_WORKER_PROCESSES="0").stderr


def test_nobody_there_is_told(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    done = aforo("reserve", "1", "--name", "Ana", "--email", "a@example.org", "--api", nobody)
    assert (done.returncode, f"No Aforo answers at {nobody}" in done.stderr) == (1, True)
    for command in (("verify",), ("migrate",), ("quarantine", "list")):
        done = aforo(*command, "--data-dir", str(tmp_path))
        assert (done.returncode, "AFORO_DATABASE_URL is not set" in done.stderr) == (1, True)
    unreachable = {"AFORO_DATABASE_URL": f"postgresql://x@127.0.0.1:{free_port()}/x", "AFORO_REDIS_URL": "redis://127.0.0.1:1/0"}
    done = aforo("verify", **unreachable)
    assert (done.returncode, done.stderr.strip()) == (1, "Postgres cannot be reached.")


def test_a_broken_stack_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{", encoding="utf-8")
    done = aforo("verify", "--data-dir", str(tmp_path))
    assert (done.returncode, "stack.json cannot be read" in done.stderr) == (1, True)


def test_migrate_is_for_a_new_database_and_harmless_for_an_old_one(deployment: Deployment) -> None:
    done = aforo("migrate", **deployment.operator_environment)
    assert (done.returncode, done.stdout.startswith("The database is at revision")) == (0, True)
    deployment.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    done = aforo("verify", **deployment.environment)
    assert (done.returncode, "aforo migrate" in done.stderr) == (1, True)
    assert aforo("migrate", **deployment.operator_environment).returncode == 0
    assert aforo("verify", **deployment.environment).returncode == 0
    done = aforo("migrate", **{**deployment.operator_environment, "AFORO_PARTITIONS": "8"})
    assert aforo("verify", **deployment.environment).returncode == 0


def test_verify_ends_with_1_and_names_the_first_difference(deployment: Deployment) -> None:
    with Driver(deployment) as driver:
        session = driver.new_session()
        driver.reserve(session, "ana")
        driver.drain_all()
        done = aforo("verify", **deployment.environment)
        assert (done.returncode, "no difference" in done.stdout) == (0, True)
        deployment.sql("UPDATE sessions SET reserved = 3")
        done = aforo("verify", **deployment.environment)
        assert done.returncode == 1
        assert "reserved is 3, its confirmed rows hold 1" in done.stdout
        found = json.loads(aforo("verify", "--json", **deployment.environment).stdout)
        assert (found["ok"], found["differences"][0].startswith(f"session {session}")) == (False, True)


def test_quarantine_shows_what_was_set_aside(deployment: Deployment) -> None:
    assert aforo("quarantine", "list", **deployment.environment).stdout.strip() == "Nothing is in quarantine."
    with Driver(deployment) as driver:
        session = driver.new_session()
        receipts = driver.reserve(session, "bad")
        driver.redis.xadd(key(partition_of_session(session, 16), "mailbox"), {"x": "garbage"})
        while driver.drain_in_a_process(driver.partition(session), "deciding=bad@example.org") == KILLED:
            pass
        driver.drain_all()
    listed = aforo("quarantine", "list", **deployment.environment).stdout
    assert receipts[0].job.id in listed
    assert "KeyError" in listed
    shown = json.loads(aforo("quarantine", "show", receipts[0].job.id, **deployment.environment).stdout)
    assert (shown["kind"], shown["arguments"]["name"]) == ("reserve", "Bad")


def test_a_restore_is_told_from_the_shell(deployment: Deployment) -> None:
    done = aforo("restored", **deployment.operator_environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "more of than Postgres has now: 0." in done.stdout


def test_the_demo_counts_what_became_of_everybody(run: Run) -> None:
    done = run("demo", "--people", "300", "--places", "20")
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(
        line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if line.strip() and "verify" not in line and "ms" not in line
    )
    assert (rows["confirmed"], rows["refused: sold_out"], rows["overbooked"]) == ("20", "280", "0")
    assert "verify: ok" in done.stdout


def test_the_demo_brings_its_own_stack_where_none_runs(tmp_path: Path) -> None:
    done = aforo("demo", "--people", "50", "--places", "5", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "verify: ok" in done.stdout


def test_the_version_is_told() -> None:
    assert aforo("--version").stdout.startswith("aforo ")
