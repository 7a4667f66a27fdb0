"""`aforo quarantine`: what was set aside because it could not be decided, or read."""

from __future__ import annotations

import json
import uuid
from typing import Annotated

import typer

from ops.shell import DATA_DIR, AsJson, DataDir, Failure, out, plain, plainly, queries_of, show_table

app = typer.Typer(no_args_is_help=True, help="Commands that could not be decided, and entries that were none.")


@app.command("list")
@plainly
def list_quarantine(
    limit: Annotated[int, typer.Option(min=1)] = 50, as_json: AsJson = False, data_dir: DataDir = DATA_DIR
) -> None:
    """List what was set aside: commands that ended their workers, and mailbox entries that were no commands."""
    queries = queries_of(data_dir)
    commands, unreadable = queries.quarantined(limit), queries.unreadable(limit)
    if as_json:
        print(json.dumps({"commands": [plain(c) for c in commands], "unreadable": [plain(u) for u in unreadable]}, default=str))
        return
    if not commands and not unreadable:
        out.print("Nothing is in quarantine.")
    if commands:
        rows = [(c.job_id, c.session_id, c.seq, c.kind, f"{c.applied_at:%Y-%m-%d %H:%M:%S}") for c in commands]
        show_table(("job", "session", "seq", "kind", "set aside at"), rows)
    if unreadable:
        entries = [(u.partition, u.stream_id, u.reason, f"{u.noticed_at:%Y-%m-%d %H:%M:%S}") for u in unreadable]
        show_table(("partition", "entry", "why it was no command", "set aside at"), entries)


@app.command("show")
@plainly
def show_quarantined(job_id: Annotated[str, typer.Argument(help="Id of the job.")], data_dir: DataDir = DATA_DIR) -> None:
    """Show one command that was set aside, whole."""
    found = queries_of(data_dir).quarantined_job(_uuid(job_id))
    if found is None:
        raise Failure(f"No command in quarantine has the job id {job_id}.")
    out.print_json(json.dumps(plain(found), default=str))


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise Failure(f"{text!r} is no job id.") from exc
