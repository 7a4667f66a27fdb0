"""`aforo repartition`: what operators type to change the number of partitions while everything runs."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from core.bootstrap import repartition_services
from core.lanes import LANES_MAX
from ops.shell import DATA_DIR, DataDir, Failure, out, plainly, settings_of


@plainly
def repartition(
    partitions: Annotated[int | None, typer.Argument(min=1, max=LANES_MAX, help="How many there are to be.")] = None,
    abort: Annotated[bool, typer.Option("--abort", help="Give up a change that was not ended, and open the door.")] = False,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Change the number of partitions; for some seconds nothing is accepted (503), nothing is lost, nothing is restarted."""
    with closing(repartition_services(settings_of(data_dir))) as services:
        if partitions is None and not abort:
            found = services.arrangements.read()
            if found.is_moving:
                raise Failure(
                    f"There are {found.partitions} partitions, and a change to {found.moving_to} is half done: "
                    f"`aforo repartition {found.moving_to}` ends it, --abort gives it up. Until then the door may be shut."
                )
            out.print(f"There are {found.partitions} partitions.")
            return
        with services.arrangements.alone():
            if abort:
                out.print(f"There are {services.repartition.abort()} partitions, and the door is open.")
                return
            seconds = services.repartition(partitions)  # type: ignore[arg-type]
    out.print(f"There are {partitions} partitions. Nothing was accepted for {seconds:.1f} s.")
