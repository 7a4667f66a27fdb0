"""Who may import whom, where SQL and Redis live, and that no import does I/O. Each rule is also shown a breach."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "core", "ops", "worker")

# Package: what it must not import, by the beginning of the module's name.
FORBIDDEN = {"core": ("api", "worker", "ops"), "api": ("worker", "ops"), "worker": ("api", "ops"), "ops": ("worker",)}

# Drivers, and the rooms they may be used in. The local stack asks its servers whether they answer.
SQL_ROOMS = {
    "core/store.py",
    "core/transaction.py",
    "core/pgerrors.py",
    "core/queries.py",
    "core/finding.py",
    "core/erasure.py",
    "core/tables.py",
    "core/keystore.py",
    "core/arrangement.py",
    "ops/localstack.py",
}
REDIS_ROOMS = {
    "core/cluster.py",
    "core/slots.py",
    "core/connections.py",
    "core/door.py",
    "core/exchange.py",
    "core/mailbox.py",
    "core/lookout.py",
    "core/projections.py",
    "core/follow.py",
    "core/freshness.py",
    "core/limits.py",
    "core/claims.py",
    "core/scrub.py",
    "core/pulse.py",
    "core/operations.py",
    "core/signins.py",
    "core/shutter.py",
    "api/resources/health.py",
    "ops/localstack.py",
}
ROOMS = {"sqlalchemy": SQL_ROOMS, "psycopg2": SQL_ROOMS, "alembic": set(), "redis": REDIS_ROOMS}
MIGRATIONS = "core/migrations/"
WIRING = "core/bootstrap.py"
VALUES = {"CancelArguments"}  # of what bootstrap calls
PURE = {
    "core/model.py": {"base64", "hashlib", "hmac", "os", "zlib", "msgspec", "typing"},
    "core/decide.py": {"msgspec", "dataclasses", "collections", "core"},
}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(source: str) -> set[str]:
    """The modules a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def breaches(name: str, source: str) -> list[str]:
    """What a module imports that it must not."""
    tops = {module.partition(".")[0] for module in imports(source)}
    found = [f"{name} imports {top}" for top in sorted(tops & set(FORBIDDEN[name.partition("/")[0]]))]
    for driver, rooms in ROOMS.items():
        if driver in tops and name not in rooms and not name.startswith(MIGRATIONS):
            found.append(f"{name} uses {driver}")
    if name in PURE and not tops - {"__future__"} <= PURE[name]:
        found.append(f"{name} imports more than it needs: {sorted(tops - PURE[name])}")
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_everything_is_in_its_room(path: Path) -> None:
    assert breaches(name_of(path), path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("core/service.py", "from api.app import create_app"),
        ("core/service.py", "import ops.verify"),
        ("api/app.py", "def f():\n    from worker import tasks"),
        ("worker/tasks.py", "import sqlalchemy.orm"),
        ("api/answers.py", "from psycopg2 import sql"),
        ("core/decide.py", "import time"),
        ("core/service.py", "import redis"),
    ],
)
def test_a_breach_is_seen(name: str, source: str) -> None:
    assert breaches(name, source) != []


def built(source: str) -> set[str]:
    """The names that a source calls, as it imported or made them."""
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {called.id for called in calls if isinstance(called, ast.Name)}


def parts() -> set[str]:
    """What bootstrap builds processes of: the classes of core that it calls, other than values."""
    source = (ROOT / WIRING).read_text("utf-8")
    imported = {module.rpartition(".")[2] for module in imports(source) if module.startswith("core.")}
    return {name for name in built(source) & imported if name[0].isupper()} - VALUES


@pytest.mark.parametrize("path", [path for path in modules() if not name_of(path).startswith("ops/")], ids=name_of)
def test_a_process_is_put_together_in_one_place(path: Path) -> None:
    assert built("def f(engine):\n    return Store(engine)") & parts()
    if name_of(path) != WIRING:
        assert not built(path.read_text("utf-8")) & parts()


def test_the_decision_sees_neither_clock_nor_chance() -> None:
    source = (ROOT / "core/decide.py").read_text("utf-8")
    assert not imports(source) & {"time", "datetime", "random", "secrets", "os", "uuid"}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_module_says_what_it_owns(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), name_of(path)


@pytest.mark.parametrize("package", ["api", "core", "ops"])
def test_the_layout_names_every_module(package: str) -> None:
    layout = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("```\n")[2].partition("```")[0]
    (part,) = re.findall(rf"^{package}/ .*\n(?:  .*\n)*", layout, re.MULTILINE)
    assert {path.name for path in (ROOT / package).glob("[a-z]*.py")} - set(re.findall(r"\w+\.py", part)) == set()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_public_function_and_class_says_what_it_does(path: Path) -> None:
    if "versions" in path.parts:
        return  # Alembic's upgrade and downgrade
    undocumented = []
    for node in ast.parse(path.read_text("utf-8")).body:
        public = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            undocumented.append(node.name)
    assert undocumented == []


def test_every_redis_key_is_described_where_the_scripts_begin() -> None:
    folder = ROOT / "core" / "lua"
    described = set(
        re.findall(r"aforo:\{p\}:(\w+)", "".join((folder / name).read_text("utf-8") for name in ("accept.lua", "take.lua")))
    )
    used = set()
    for path in [*folder.glob("*.lua"), *(ROOT / f"core/{name}.py" for name in ("door", "mailbox", "projections", "scrub"))]:
        text = path.read_text("utf-8")
        used |= set(re.findall(r"prefix \.\. '(\w+)", text)) | set(
            re.findall(r'key\([^()]*(?:\([^()]*\))?[^()]*, f?"(\w+)', text)
        )
    assert used >= {"bell", "pace", "job", "s", "mailbox"}
    assert used <= described


OFFLINE = """
import socket, sys
class Refused(socket.socket):
    def connect(self, *a): raise SystemExit("an import connects")
    def bind(self, *a): raise SystemExit("an import listens")
socket.socket = Refused
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_no_import_does_io() -> None:
    names = [name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in modules()]
    # These two are entry points that read the environment; revisions and Alembic's hook are run by Alembic.
    skipped = ("worker.app", "api.server", "core.migrations.env", "core.migrations.versions", "core.migrations.__main__")
    chosen = [name for name in names if not name.startswith(skipped)]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *chosen], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
