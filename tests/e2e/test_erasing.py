"""`aforo forget` and `aforo prune` from the shell: what they say, and every foreseeable mistake as one plain line."""

from __future__ import annotations

import json

import pytest

from tests.e2e.test_cli import aforo
from tests.support.driving import Driver
from tests.support.erasing import end, rows_with
from tests.support.stack import Deployment


def test_a_person_is_forgotten_from_the_shell(deployment: Deployment) -> None:
    with Driver(deployment) as driver:
        session = driver.new_session()
        driver.reserve(session, "ana", "bo")
        driver.drain_all()
    refused = aforo("forget", "Ana@Example.org", **deployment.operator_environment)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (f"They have places in sessions that are not over: {session}. Cancel them first, or use --cancel.\n")
    done = aforo("forget", "Ana@Example.org", "--cancel", "--json", **deployment.operator_environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "sessions": 1, "reservations": 1, "jobs": 2, "unreadable": 0, "cancelled": 1, "log_rewritten": True,
    }  # fmt: skip
    assert rows_with(deployment, "ana@example.org") == 0


def test_old_sessions_are_pruned_from_the_shell(deployment: Deployment) -> None:
    with Driver(deployment) as driver:
        session = driver.new_session()
        driver.reserve(session, "ana", "bo")
        driver.drain_all()
        end(driver, session)
    counts = {"sessions": 1, "reservations": 2, "jobs": 4, "batches": 0, "incidents": 0, "unreadable": 0}
    shown = aforo("prune", "--older-than", "1y", "--dry-run", **deployment.operator_environment)
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "Nothing was removed: this is what would go.")
    done = aforo("prune", "--older-than", "1y", "--json", **deployment.operator_environment)
    assert (done.returncode, json.loads(done.stdout)) == (0, {**counts, "dry_run": False})
    assert rows_with(deployment, "@example.org") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("forget", "ana"), "EMAIL must be an e-mail address, like ana@example.org."),
        (("prune", "--older-than", "soon"), "--older-than must be a number of days, weeks or years, like 90d, 12w or 2y"),
    ],
)
def test_a_mistake_is_one_plain_line(arguments: tuple[str, ...], words: str) -> None:
    done = aforo(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert words in done.stderr
