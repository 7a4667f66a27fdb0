"""`aforo forget` and `aforo prune`: what operators type to have a person or old sessions erased."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer
from rich.progress import Progress

from core import validation
from core.bootstrap import owner_services
from core.erasure import Pruned
from core.forget import Forgotten
from core.prune import Prune
from ops.shell import DATA_DIR, AsJson, DataDir, Failure, err, out, plainly, settings_of, show_table


@plainly
def forget(
    email: Annotated[str, typer.Argument(help="Their e-mail address.")],
    cancel: Annotated[bool, typer.Option("--cancel", help="First give back what they hold in sessions to come.")] = False,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Copy the tables, so that their files keep nothing; they are locked meanwhile.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Erase a person's name and address everywhere; this cannot be taken back."""
    try:
        _, email_key = validation.email(email)
    except ValueError as exc:
        raise Failure(f"EMAIL {exc}.") from exc
    with closing(owner_services(settings_of(data_dir))) as services:
        found = services.forget(email_key, cancel, rewrite)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    _show_forgotten(found)


@plainly
def prune(
    older_than: Annotated[str, typer.Option(help="How long ago they were over: 90d, 12w, 2y; 1d at least.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Remove sessions that ended, or were cancelled, long ago, with all that belongs to them; this cannot be taken back."""
    try:
        age = validation.age(older_than)
    except ValueError as exc:
        raise Failure(f"--older-than {exc}.") from exc
    with closing(owner_services(settings_of(data_dir))) as services:
        found = services.prune.preview(age) if dry_run else _pruned(services.prune, age)
    if as_json:
        print(json.dumps({**asdict(found), "dry_run": dry_run}))
        return
    show_table(("", ""), [(name, f"{count:,}") for name, count in asdict(found).items()])
    out.print("Nothing was removed: this is what would go." if dry_run else "Removed.")


def _pruned(prune: Prune, age: timedelta) -> Pruned:
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("Removing sessions", total=None)
        return prune(age, lambda sessions: bar.advance(task, sessions))


def _show_forgotten(found: Forgotten) -> None:
    if not found.jobs and not found.reservations and not found.unreadable:
        out.print("Nobody with this address is named anywhere.")
    else:
        names = ("sessions", "reservations", "jobs", "unreadable", "cancelled")
        show_table(("", ""), [(name, f"{getattr(found, name):,}") for name in names])
        out.print("Erased.")
    if not found.log_rewritten:
        out.print("Redis keeps no append-only file, so none was written anew.")
