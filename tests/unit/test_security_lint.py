"""What a linter for security finds in the product: nothing that nobody has looked at.

ruff's S rules are bandit's, under the same numbers; a run of both found the same places, so bandit itself would add a dependency
and no finding. Of the four that ruff lacks, one has another number (text that reads otherwise than it looks), and three are about
frameworks that are not used here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "core", "ops", "worker")
REASON = re.compile(r"# noqa: [A-Z0-9, ]+  \S")
ASKED = "S,PLE2502"
NOT_ASKED = "S603,S607"  # pyproject.toml says why


def found(*arguments: str, given: str | None = None) -> list[dict[str, Any]]:
    """What these rules find."""
    rules = ["--select", ASKED, "--ignore", NOT_ASKED]
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *rules, "--output-format", "json", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_nothing_is_found() -> None:
    assert found(*PACKAGES) == []


def test_every_exception_says_why() -> None:
    unexplained = []
    for finding in found("--ignore-noqa", *PACKAGES):
        line = Path(finding["filename"]).read_text("utf-8").splitlines()[finding["noqa_row"] - 1]
        if not REASON.search(line):
            unexplained.append(f"{finding['filename']}:{finding['noqa_row']}: {line.strip()}")
    assert unexplained == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import pickle\npickle.loads(b'')\n", "S301"),
        ("eval(input())\n", "S307"),
        ("import subprocess\nsubprocess.run('ls', shell=True)\n", "S602"),
        ("import hashlib\nhashlib.md5(b'')\n", "S324"),
        ("password = 'swordfish'\n", "S105"),
        ("x = '\u202e'\n", "PLE2502"),
        ("def f(c, name):\n    c.execute(f'SELECT * FROM t WHERE n = {name}')\n", "S608"),
    ],
)
def test_a_breach_is_seen(source: str, code: str) -> None:
    assert code in [finding["code"] for finding in found("--stdin-filename", "core/new.py", "-", given=source)]
