"""README's promises, word for word: its walk is run, its table of settings is compared. See also test_documents.py."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from core.settings import Settings
from tests.support.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "http://127.0.0.1:8000"
MARK = "---- next command ----"


class Step(NamedTuple):
    """A command, and what its output must contain."""

    command: str
    expected: list[str]


def walk() -> list[Step]:
    """The blocks of commands with expectations under README's heading "A walk", as one."""
    text = (ROOT / "README.md").read_text("utf-8").split("\n## A walk\n", 1)[1].split("\n## ", 1)[0]
    blocks = [block.split("```", 1)[0] for block in text.split("```sh\n")[1:]]
    steps: list[Step] = []
    for line in "".join(block for block in blocks if "# → " in block).splitlines():
        if line.startswith("# → "):
            steps[-1].expected.append(line.removeprefix("# → "))
        elif line and not line.startswith("#"):
            steps.append(Step(line, []))
    return steps


def run(steps: list[Step], origin: str, folder: Path) -> list[str]:
    """Run the commands in one shell, one after another. What each of them printed."""
    assert shutil.which("curl"), "README's walk needs curl"
    lines = [f"{step.command}\nprintf '\\n{MARK}\\n'" for step in steps]
    script = "\n".join(lines).replace(ORIGIN, origin).replace("/tmp/", f"{folder}/")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=90, check=False)
    return done.stdout.split(MARK + "\n")[:-1]


def unmet(steps: list[Step], outputs: list[str]) -> list[str]:
    """The expectations that the output of their command does not meet."""
    assert len(outputs) == len(steps)
    return [
        f"{step.command}: no {expected!r} in {output!r}"
        for step, output in zip(steps, outputs, strict=True)
        for expected in step.expected
        if expected not in output
    ]


def test_the_walk_does_what_it_says(live_api: Stack, tmp_path: Path) -> None:
    steps = walk()
    assert sum(len(step.expected) for step in steps) >= 15
    assert unmet(steps, run(steps, live_api.url, tmp_path)) == []


def test_an_expectation_that_is_not_met_is_seen(live_api: Stack, tmp_path: Path) -> None:
    steps = [Step(f"curl -s {ORIGIN}/healthz", ['"status":"perhaps"']), Step("echo done", ["done"])]
    assert len(unmet(steps, run(steps, live_api.url, tmp_path))) == 1


def test_the_table_of_settings_lists_what_settings_knows_with_its_defaults() -> None:
    text = (ROOT / "README.md").read_text("utf-8").split("\n## Settings\n", 1)[1].split("\n## ", 1)[0]
    listed: dict[str, str] = {}
    for row in re.findall(r"^\| (`AFORO_.*?) \| (.*?) \|", text, re.MULTILINE):
        names = re.findall(r"`(AFORO_\w+)`", row[0])
        defaults = row[1].split(", ") if len(names) > 1 else [row[1]]
        listed |= dict(zip(names, defaults, strict=True))
    fields = {f"AFORO_{name.upper()}": field for name, field in Settings.model_fields.items() if name != "crash_at"}
    assert set(listed) == set(fields)
    for name, field in fields.items():
        if not field.is_required() and field.default not in (None, "", ()):
            assert listed[name].strip("`").lower() == str(field.default).lower().removesuffix(".0"), name
