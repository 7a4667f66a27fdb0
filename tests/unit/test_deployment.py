"""What ships is read, because no container engine runs where the tests do: compose file, Dockerfile, Makefile, locks.

Every variable they set must be one that Settings knows, and every command they run must exist. Each reader is also
shown something wrong, so that it is known to see it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy.engine import make_url

from ops.localstack import POSTGRES_SETTINGS, VALKEY_SETTINGS, valkey_app_rights

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ["docker-compose.yml", "Dockerfile", "Makefile", ".ci/run"]
PACKAGES = ["api", "core", "ops", "worker"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- Readers ---------------------------------------------------------------------------------------------------------


class Locked(NamedTuple):
    version: str
    marker: str
    hashes: frozenset[str]


def locked(text: str) -> dict[str, Locked]:
    """The requirements of a lock file by canonical name. Raises ValueError on a line that is none."""
    found = {}
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for entry in re.split(r"(?<!\\)\n", "\n".join(lines)):
        match = re.fullmatch(r"([\w.\-]+)==([\w.+!]+)(?: ; ([^\\]+?))?((?: \\\n +--hash=sha256:[0-9a-f]{64})*)", entry)
        if match is None:
            raise ValueError(f"not a pinned requirement: {entry!r}")
        hashes = frozenset(re.findall(r"sha256:([0-9a-f]{64})", match[4]))
        found[canonicalize_name(match[1])] = Locked(match[2], match[3] or "", hashes)
    return found


def interpolated(value: str) -> str:
    """What compose makes of a string when the shell sets none of its variables."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", value).replace("$$", "$")


def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(interpolated(read("docker-compose.yml")))["services"]


def aforo_services() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services().items() if "build" in service}


def valkey_users() -> dict[str, list[str]]:
    """The users that Valkey is started with, and their rules."""
    _, *users = " ".join(services()["valkey"]["command"]).split("--user ")
    return {name: rules for name, *rules in map(str.split, users)}


def instructions(name: str, dockerfile: str) -> list[str]:
    """The arguments of each `name` instruction, in order."""
    text = re.sub(r"\\\n", " ", dockerfile)
    return [line.split(None, 1)[1].strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def unknown_settings(text: str) -> set[str]:
    from core.settings import Settings

    known = {f"AFORO_{field.upper()}" for field in Settings.model_fields}
    return set(re.findall(r"\bAFORO_[A-Z0-9_]+", text)) - known


def source_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def defines(module: str, name: str) -> bool:
    """Whether the module binds `name` at its top, found without running it."""
    source = source_of(module)
    if source is None:
        return False
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return True
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return True
    return False


def faults_of(command: list[str]) -> list[str]:
    """What would keep a container's command from running; empty when nothing would."""
    program, *arguments = command
    checks = {"python": python_faults, "gunicorn": gunicorn_faults, "celery": celery_faults}
    if program not in checks:
        return [f"{program} is not a program of the image"]
    if program != "python":
        owners = importlib.metadata.entry_points(group="console_scripts", name=program)
        if not any(canonicalize_name(script.dist.name) in locked(read("requirements.lock")) for script in owners):
            return [f"no locked requirement brings {program}"]
    return list(checks[program](arguments))


def python_faults(arguments: list[str]) -> Iterator[str]:
    if arguments[0] == "-c":
        compile(arguments[1], "<command>", "exec")
    elif arguments[0] == "-m":
        source = source_of(arguments[1])
        if source is not None and source.name == "__init__.py":
            source = source.with_name("__main__.py")
        if source is None or not source.exists():
            yield f"{arguments[1]} cannot be run"
    else:
        yield f"unexpected arguments {arguments}"


def gunicorn_faults(arguments: list[str]) -> Iterator[str]:
    from gunicorn.config import Config

    options = Config().parser().parse_args(arguments)
    kind, _, module = options.config.partition(":")
    if kind != "python" or source_of(module) is None:
        yield f"no configuration {options.config}"
    app = re.fullmatch(r"([\w.]+):(\w+)\(\)", " ".join(options.args))
    if app is None or not defines(app[1], app[2]):
        yield f"no application {options.args}"


def celery_faults(arguments: list[str]) -> Iterator[str]:
    from celery.bin.worker import worker

    app, module, subcommand, *rest = arguments
    if app != "--app" or not defines(module, "app"):
        yield f"no application {module}"
    if subcommand != "worker":
        yield f"no subcommand {subcommand}"
    options = {option for parameter in worker.params for option in parameter.opts}
    if unknown := {argument for argument in rest if argument.startswith("-")} - options:
        yield f"no options {unknown}"


def imported_distributions(package: str) -> dict[str, set[str]]:
    """The packages from elsewhere that each file of `package` imports, and the distributions that bring them."""
    brought_by = importlib.metadata.packages_distributions()
    found: dict[str, set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names} - {*PACKAGES, *sys.stdlib_module_names}:
                found[f"{path.relative_to(ROOT)}: {top}"] = {canonicalize_name(d) for d in brought_by.get(top, [])}
    return found


# --- Settings and commands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_variable_a_shipped_file_names_is_one_that_settings_knows(name: str) -> None:
    assert unknown_settings(read(name)) == set()


def test_a_variable_that_settings_does_not_know_is_seen() -> None:
    assert unknown_settings("AFORO_PORT: 1\n  AFORO_PROT: ${AFORO_HSOT:-x}") == {"AFORO_PROT", "AFORO_HSOT"}


@pytest.mark.parametrize("name", ["migrate", "api", "worker", "sweeper"])
def test_settings_accepts_what_a_service_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.settings import Settings

    for variable in [variable for variable in os.environ if variable.startswith("AFORO_")]:
        monkeypatch.delenv(variable)
    environment = aforo_services()[name]["environment"]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value if isinstance(value, str) else str(value).lower())
    settings = Settings()
    (password,) = {url.password for url in map(make_url, (settings.database_url, settings.redis_url))}
    assert settings.database_url == f"postgresql://aforo_app:{password}@postgres:5432/aforo"
    assert settings.redis_url == f"redis://aforo_app:{password}@valkey:6379/0"
    assert valkey_users()["aforo_app"][:2] == ["on", f">{password}"]
    assert settings.auth == ("keys" if name == "api" else "open")
    assert (settings.owner_url is not None) is (name == "migrate")  # nobody else knows its password


def test_the_owner_of_both_servers_is_somebody_else() -> None:
    postgres, environment = services()["postgres"]["environment"], aforo_services()["migrate"]["environment"]
    user, password, database = (postgres[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
    assert environment["AFORO_OWNER_URL"] == f"postgresql://{user}:{password}@postgres:5432/{database}"
    assert valkey_users()["aforo"] == ["on", f">{password}", "~*", "&*", "+@all"]
    assert valkey_users()["default"] == ["off"]
    assert password not in environment["AFORO_DATABASE_URL"]


def test_the_apps_user_of_valkey_has_the_rights_that_all_tests_run_with() -> None:
    assert tuple(valkey_users()["aforo_app"][2:]) == valkey_app_rights(databases=1)
    assert services()["valkey"]["environment"] == {"REDISCLI_AUTH": valkey_users()["aforo_app"][1].removeprefix(">")}


def test_every_command_that_a_service_runs_exists() -> None:
    commands = {name: service["command"] for name, service in aforo_services().items()}
    assert set(commands) == {"migrate", "api", "worker", "sweeper"}
    assert {name: faults for name, command in commands.items() if (faults := faults_of(command))} == {}


def test_the_image_alone_runs_the_api() -> None:
    commands = [yaml.safe_load(command) for command in instructions("CMD", read("Dockerfile"))]
    assert commands == [services()["api"]["command"]]


@pytest.mark.parametrize(
    "command",
    [
        ["python", "-m", "core.migration"],
        ["python", "-m", "core"],
        ["python", "-m", "nowhere.at_all"],
        ["gunicorn", "--config", "python:api.sever", "api.app:create_app_from_environment()"],
        ["gunicorn", "--config", "python:api.server", "api.app:create_app_from_environmnet()"],
        ["celery", "--app", "worker.ap", "worker"],
        ["celery", "--app", "worker.app", "wroker"],
        ["celery", "--app", "worker.app", "worker", "--concurency", "2"],
        ["pytest"],
    ],
    ids=" ".join,
)
def test_a_command_that_does_not_exist_is_seen(command: list[str]) -> None:
    assert faults_of(command) != []


def test_the_processes_import_only_what_the_image_installs() -> None:
    present = set(locked(read("requirements.lock")))
    imports = imported_distributions("api") | imported_distributions("core") | imported_distributions("worker")
    assert any("celery" in names for names in imports.values())
    assert {where: names for where, names in imports.items() if not names & present} == {}


# --- docker-compose.yml ----------------------------------------------------------------------------------------------


def test_only_the_api_is_reachable_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    inside = services()["api"]["environment"]["AFORO_PORT"]
    assert published == {"api": [f"127.0.0.1:8000:{inside}"]}
    assert not any("network_mode" in service for service in services().values())


def test_workers_can_be_multiplied() -> None:
    worker = services()["worker"]
    assert {"container_name", "hostname", "ports"} & set(worker) == set()
    assert "--hostname" not in worker["command"]


def test_postgres_keeps_its_data_where_the_image_from_18_on_has_it() -> None:
    postgres = services()["postgres"]
    assert postgres["image"] == "postgres:18"
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql"]


def test_valkey_has_a_write_on_disk_before_it_answers_and_throws_nothing_out() -> None:
    valkey = services()["valkey"]
    program, *arguments = valkey["command"]
    options = dict(itertools.pairwise(arguments))
    assert program == "valkey-server"
    assert valkey["image"] == "valkey/valkey:9"
    assert valkey["volumes"] == ["valkey:/data"]
    assert (
        options.items()
        >= {
            "--appendonly": "yes",
            "--appendfsync": "always",
            "--no-appendfsync-on-rewrite": "no",
            "--maxmemory-policy": "noeviction",
        }.items()
    )


def test_the_logs_of_both_servers_name_nobody_as_in_the_local_stack() -> None:
    _, *arguments = services()["valkey"]["command"]
    assert ("--slowlog-log-slower-than", VALKEY_SETTINGS["slowlog-log-slower-than"]) in itertools.pairwise(arguments)
    program, *arguments = services()["postgres"]["command"]
    quiet = ("log_min_error_statement", "log_error_verbosity")
    assert program == "postgres"
    assert arguments == [word for name in quiet for word in ("-c", f"{name}={POSTGRES_SETTINGS[name]}")]


def test_processes_start_after_the_migration_and_the_migration_after_postgres() -> None:
    ready = {"postgres": "service_healthy", "valkey": "service_healthy", "migrate": "service_completed_successfully"}
    waits = {
        name: {other: on["condition"] for other, on in service["depends_on"].items()}
        for name, service in aforo_services().items()
    }
    assert waits == {"migrate": {"postgres": "service_healthy"}, "api": ready, "worker": ready, "sweeper": ready}
    assert services()["migrate"]["restart"] == "no"
    assert all("test" in services()[name]["healthcheck"] for name in ("postgres", "valkey", "api", "worker"))


def test_the_healthchecks_ask_the_address_that_the_service_listens_on() -> None:
    api, worker = services()["api"], services()["worker"]
    kind, *command = api["healthcheck"]["test"]
    assert kind == "CMD"
    assert faults_of(command) == []
    assert f'"http://127.0.0.1:{api["environment"]["AFORO_PORT"]}/readyz"' in command[-1]
    assert '--broker "$AFORO_REDIS_URL" inspect ping' in worker["healthcheck"]["test"][1]
    assert "AFORO_BROKER_URL" not in worker["environment"]


def test_all_processes_leave_their_metrics_in_one_folder_that_their_user_may_write() -> None:
    document = yaml.safe_load(read("docker-compose.yml"))
    (user,) = instructions("USER", read("Dockerfile"))
    uid, gid = user.split(":")
    for name in ("api", "worker", "sweeper"):
        assert services()[name]["volumes"] == [f"metrics:{services()[name]['environment']['AFORO_METRICS_DIR']}"]
    assert {f"uid={uid}", f"gid={gid}"} <= set(document["volumes"]["metrics"]["driver_opts"]["o"].split(","))
    used = {volume.partition(":")[0] for service in services().values() for volume in service.get("volumes", [])}
    assert used == set(document["volumes"])


@pytest.mark.parametrize("name", ["migrate", "api", "worker", "sweeper"])
def test_a_process_has_no_more_rights_than_it_needs_and_time_to_end(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert int(service["stop_grace_period"].removesuffix("s")) > 30


# --- Dockerfile ------------------------------------------------------------------------------------------------------


def test_the_image_runs_as_a_user_without_rights() -> None:
    users = instructions("USER", read("Dockerfile"))
    assert len(users) == 1
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0])
    assert read("Dockerfile").index("\nUSER ") > read("Dockerfile").rindex("\nFROM ")


def test_the_image_installs_the_locked_requirements_and_nothing_else() -> None:
    installs = [run for run in instructions("RUN", read("Dockerfile")) if re.search(r"\b(pip|apt-get|apk)\b", run)]
    assert len(installs) == 1
    assert "--require-hashes --requirement /requirements.lock" in " ".join(installs[0].split())
    assert "requirements-dev" not in read("Dockerfile")


def test_the_image_is_slim_and_of_a_python_that_the_project_supports() -> None:
    bases = [base.split()[0] for base in instructions("FROM", read("Dockerfile"))]
    wanted = Requirement("python" + tomllib.loads(read("pyproject.toml"))["project"]["requires-python"]).specifier
    assert bases
    for base in bases:
        match = re.fullmatch(r"python:(3\.\d+)-slim", base)
        assert match is not None
        assert wanted.contains(match[1])


def test_what_the_image_copies_is_there_and_is_sent_to_the_builder() -> None:
    copies = [copy.split()[:-1] for copy in instructions("COPY", read("Dockerfile")) if not copy.startswith("--from")]
    copied = {source for sources in copies for source in sources}
    sent = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert "*" in read(".dockerignore").splitlines()
    assert copied == sent
    assert {*PACKAGES, "openapi.yaml", "requirements.lock"} <= copied
    assert {source for source in copied if not (ROOT / source).exists()} == set()


# --- Locks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_requirement_has_hashes_and_the_file_names_no_address(name: str) -> None:
    requirements = locked(read(name))
    assert len(requirements) > 20
    assert {requirement for requirement, lock in requirements.items() if not lock.hashes} == set()
    assert re.findall(r"(?i)https?:|://|--\S*index|--find-links|\bfile:", read(name)) == []


def test_a_requirement_without_hash_or_version_is_seen() -> None:
    assert locked("falcon==4.4.0\n    # via aforo\n")["falcon"].hashes == frozenset()
    with pytest.raises(ValueError, match="falcon>=4"):
        locked("falcon>=4\n")


def test_the_lock_for_tests_adds_to_the_lock_of_what_runs_and_changes_nothing() -> None:
    runs, tests = locked(read("requirements.lock")), locked(read("requirements-dev.lock"))
    assert runs.items() < tests.items()
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]["dev"]
    assert {canonicalize_name(Requirement(line).name) for line in extras} & set(runs) == set()


@pytest.mark.parametrize(("lock", "extras"), [("requirements.lock", []), ("requirements-dev.lock", ["dev"])])
def test_the_locks_hold_what_the_project_asks_for(lock: str, extras: list[str]) -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    wanted = [Requirement(line) for line in lines]
    pinned = locked(read(lock))
    assert [str(r) for r in wanted if not r.specifier.contains(pinned[canonicalize_name(r.name)].version)] == []


# --- Makefile and .ci/run --------------------------------------------------------------------------------------------

FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"--require-hashes"*) test ! -e fail ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder with a space in its name; beside it a `python` that only writes down what it is asked."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements-dev.lock"):
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON.format(log=tmp_path / "log"), encoding="utf-8")
    python.chmod(0o755)
    return folder


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as from a shell: the `make test` that may be running these tests leaves no trace in it."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def make_venv(folder: Path) -> tuple[int, list[str]]:
    """The exit status of `make venv`, and what it asked of Python, the questions after its version left out."""
    log = folder.parent / "log"
    log.write_text("", encoding="utf-8")
    status = run(folder, "make", "venv", "PYTHON=../python").returncode
    asked = log.read_text(encoding="utf-8").splitlines()
    return status, [line.split("-m ", 1)[1].split()[0] for line in asked if line.startswith("-m ")]


def test_make_installs_once_and_then_finds_it_ready(checkout: Path) -> None:
    assert make_venv(checkout) == (0, ["venv", "pip", "pip"])
    assert make_venv(checkout) == (0, [])


def test_make_installs_anew_when_the_lock_changed_or_the_checkout_moved(checkout: Path) -> None:
    make_venv(checkout)
    with (checkout / "requirements-dev.lock").open("a", encoding="utf-8") as lock:
        lock.write("# changed\n")
    assert make_venv(checkout) == (0, ["venv", "pip", "pip"])
    assert make_venv(checkout.rename(checkout.with_name("moved"))) == (0, ["venv", "pip", "pip"])


def test_make_installs_only_the_project_anew_when_only_its_file_changed(checkout: Path) -> None:
    make_venv(checkout)
    with (checkout / "pyproject.toml").open("a", encoding="utf-8") as project:
        project.write("# changed\n")
    assert make_venv(checkout) == (0, ["pip"])


def test_an_install_that_failed_does_not_count(checkout: Path) -> None:
    (checkout / "fail").touch()
    assert make_venv(checkout) == (2, ["venv", "pip"])
    (checkout / "fail").unlink()
    assert make_venv(checkout) == (0, ["venv", "pip", "pip"])
    assert not (checkout / ".venv.lock").is_symlink()


def test_the_link_of_a_make_that_is_gone_holds_nobody_up(checkout: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    (checkout / ".venv.lock").symlink_to(str(gone.pid))
    assert make_venv(checkout) == (0, ["venv", "pip", "pip"])


def test_a_python_that_is_too_old_is_refused_with_a_word_on_what_to_do(checkout: Path) -> None:
    answer = run(checkout, "make", "venv", "PYTHON=false")
    assert answer.returncode != 0
    assert "needs Python 3.11 or newer" in answer.stderr
    assert "make PYTHON=" in answer.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("target", "command"),
    [("up", "exec .venv/bin/aforo up --port 8080"), ("test", "exec .venv/bin/python -m pytest -n 3 --dist loadfile --port 8080")],
)
def test_make_hands_its_arguments_on(target: str, command: str) -> None:
    assert run(ROOT, "make", "--dry-run", target, "ARGS=--port 8080").stdout.splitlines()[-1] == command


def test_the_program_that_make_up_runs_is_declared_and_knows_the_command() -> None:
    from typer.testing import CliRunner

    module, _, name = tomllib.loads(read("pyproject.toml"))["project"]["scripts"]["aforo"].partition(":")
    app = getattr(importlib.import_module(module), name)
    assert CliRunner().invoke(app, ["up", "--help"]).exit_code == 0
    assert CliRunner().invoke(app, ["pu", "--help"]).exit_code != 0


@pytest.mark.parametrize("status", [0, 1])
def test_ci_ends_with_pytests_closing_line_and_its_verdict(checkout: Path, status: int) -> None:
    make_venv(checkout)
    (checkout / ".venv/bin/python").write_text(f"#!/bin/sh\necho closing line\nexit {status}\n", encoding="utf-8")
    (checkout / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci/run", checkout / ".ci/run")
    answer = run(checkout.parent, script)
    assert answer.stdout.splitlines()[-1] == "closing line"
    assert answer.stderr == ""
    assert (answer.returncode == 0) is (status == 0)
