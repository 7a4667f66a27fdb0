"""What the documents name exists: files, commands, settings, metrics, incidents; and the SQL they show runs."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from typer.core import TyperGroup
from typer.main import get_command

from core.settings import Settings
from ops.cli import app
from tests.support.stack import Deployment

ROOT = Path(__file__).resolve().parents[2]
IN_THE_ROOT = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
DOCUMENTS = [*IN_THE_ROOT, *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
OPERATIONS = "docs/operations.md"
# What only docker-compose.yml knows.
SETTINGS_OF_COMPOSE = set(re.findall(r"\$\{(AFORO_\w+)", (ROOT / "docker-compose.yml").read_text("utf-8")))


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def source() -> str:
    """Everything that runs."""
    paths = [path for package in ("api", "core", "ops", "worker") for path in sorted((ROOT / package).rglob("*.py"))]
    return "\n".join(path.read_text("utf-8") for path in paths)


def anchors(text: str) -> set[str]:
    """The headings' names in links."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", text_of(name)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = folder / path if path else ROOT / name
        if not found.exists() or (anchor and anchor not in anchors(found.read_text("utf-8"))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str) -> None:
    named = re.findall(r"`((?:api|core|ops|worker|tests|docs)/[\w./-]+)`", text_of(name))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_that_are_named_exist(name: str) -> None:
    text = text_of(name)
    makefile = text_of("Makefile")
    targets = set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE))
    assert {target for target in targets if f"\n{target}:" not in makefile} == set()
    known = get_command(app).commands  # type: ignore[attr-defined]
    unknown = []
    for first, second in re.findall(r"(?:^|`)(?:\.venv/bin/)?aforo ([a-z]+)(?: ([a-z-]+))?", text, re.MULTILINE):
        command = known.get(first)
        if command is None or (isinstance(command, TyperGroup) and second and second not in command.commands):
            unknown.append(f"{first} {second}")
    assert unknown == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_that_are_named_exist(name: str) -> None:
    known = {f"AFORO_{field.upper()}" for field in Settings.model_fields} | SETTINGS_OF_COMPOSE
    assert set(re.findall(r"\bAFORO_[A-Z_]+[A-Z]\b", text_of(name))) - known == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_metrics_and_roles_that_are_named_exist(name: str) -> None:
    code = source()
    named = set(re.findall(r"`(aforo_[a-z_]+)", text_of(name)))
    assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", code)] == []


def test_the_table_of_incidents_lists_all_there_are() -> None:
    section = text_of(OPERATIONS).split("\n## Incidents\n", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(re.findall(r'Incident\("(\w+)"', source()))


def test_the_sql_that_is_shown_runs(deployment: Deployment) -> None:
    blocks = re.findall(r"^```sql\n(.*?)^```", text_of(OPERATIONS), re.MULTILINE | re.DOTALL)
    assert blocks
    with closing(psycopg2.connect(deployment.owner_url)) as connection:
        for block in blocks:
            connection.cursor().execute(block)
            connection.rollback()
