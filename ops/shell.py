"""What the commands of the shell share: where the servers are, how results are shown, and that errors are one plain line."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from core.errors import AforoError
from core.queries import Queries
from core.settings import Settings, load
from core.store import create_engine
from ops import stackfile
from ops.client import Client, NoAnswer, key_from_environment
from ops.demo import DemoFailed
from ops.up import STACK_FILE

DEFAULT_ORIGIN = "http://127.0.0.1:8000"

DataDir = Annotated[Path, typer.Option(help="Folder of the data, the logs and stack.json.")]
Api = Annotated[str | None, typer.Option(help="Origin of the API; else that of the running stack.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DATA_DIR = Path(".aforo")

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


class Failure(Exception):
    """A command cannot do what was asked; the message is all that is shown."""


def plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show every foreseeable error as one line, with exit status 1."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except (Failure, NoAnswer, AforoError, DemoFailed, stackfile.BrokenStackFile) as exc:
            err.print(str(exc), style="red", markup=False)
            raise typer.Exit(1) from exc

    return run


def client_of(api: str | None, data_dir: Path) -> Client:
    """A client of the API that was named, else of the stack that runs. Raises Failure."""
    running = None if api else stackfile.read(data_dir / STACK_FILE)
    origin = api or (running.api if running else DEFAULT_ORIGIN)
    if not origin.startswith(("http://", "https://")):
        raise Failure(f"--api must begin with http:// or https://, not {origin!r}.")
    return Client(origin, key_from_environment())


def has_database(data_dir: Path) -> bool:
    """Whether it is known where the database is."""
    return "AFORO_DATABASE_URL" in os.environ or stackfile.read(data_dir / STACK_FILE) is not None


def settings_of(data_dir: Path) -> Settings:
    """Where the servers are: from the environment, else of the stack that runs. Raises Failure, SettingsConflict."""
    running = stackfile.read(data_dir / STACK_FILE)
    given: dict[str, str] = {}
    for name, variable in (("database_url", "DATABASE_URL"), ("owner_url", "DATABASE_URL"), ("redis_url", "REDIS_URL")):
        if f"AFORO_{variable}" not in os.environ and running is not None and getattr(running, name):
            given[name] = getattr(running, name)
    if running is None and "AFORO_DATABASE_URL" not in os.environ:
        raise Failure(f"No stack runs from {data_dir}, and AFORO_DATABASE_URL is not set: there is no database to look at.")
    return load(**given)


def queries_of(data_dir: Path) -> Queries:
    """The reading side of that database."""
    return Queries(create_engine(settings_of(data_dir).database_url, 1))


def show_table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print rows under their names; numbers to the right."""
    table = Table(box=None, pad_edge=False, show_header=any(head), header_style="dim")
    for index, name in enumerate(head):
        numbers = bool(rows) and isinstance(rows[0][index], int)
        table.add_column(name, justify="right" if numbers or (not any(head) and index) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    out.print(table)


def plain(value: Any) -> dict[str, Any]:
    """A frozen value as JSON can show it."""
    names = getattr(value, "__struct_fields__", None) or value.__slots__
    return {name: _text(getattr(value, name)) for name in names}


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
