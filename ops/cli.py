"""The command `aforo`: what operators type. Here its commands are put together; each is in the room that its name leads to, calls
one function of this package or of core, and shows the result.

Whatever goes wrong is one line on stderr and exit status 1; usage errors are 2.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from core import migrations
from ops import keys, quarantine, sessions
from ops import up as whole
from ops.jobs import job
from ops.privacy import forget, prune
from ops.proof import demo, verify
from ops.repartition import repartition
from ops.reservations import cancel, reserve
from ops.restored import restored
from ops.shell import DATA_DIR, DataDir, out, plainly, settings_of

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Aforo: reservations that cannot overbook.")
app.add_typer(sessions.app, name="sessions")
app.add_typer(keys.app, name="keys")
app.add_typer(quarantine.app, name="quarantine")


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"aforo {importlib.metadata.version('aforo')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Aforo: reservations that cannot overbook."""


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, envvar="AFORO_PORT", help="Port of the API, on 127.0.0.1.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, max=64, envvar="AFORO_WORKER_PROCESSES", help="Celery worker processes.")
    ] = 2,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Start everything on this machine; Ctrl-C stops it, the data stay."""
    raise typer.Exit(whole.run(port, workers, data_dir, out))


@app.command()
@plainly
def migrate(data_dir: DataDir = DATA_DIR) -> None:
    """Bring the database to this release's schema."""
    out.print(f"The database is at revision {migrations.upgrade(settings_of(data_dir))}.")


for command in (reserve, cancel, job, demo, forget, prune, restored, repartition, verify):
    app.command()(command)


if __name__ == "__main__":
    sys.exit(app())
