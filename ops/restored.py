"""`aforo restored`: what operators type when Postgres was put back to an earlier time, or a lagging standby took over."""

from __future__ import annotations

from contextlib import closing

from core.bootstrap import owner_services
from ops.shell import DATA_DIR, DataDir, out, plainly, settings_of


@plainly
def restored(data_dir: DataDir = DATA_DIR) -> None:
    """Tell Aforo that Postgres has gone back: before anything else runs, or as soon as it is noticed. It may be repeated."""
    with closing(owner_services(settings_of(data_dir))) as services:
        services.store.skip_ids()
        found = services.recheck()
    out.print("No id that was given out since is given out again, and outcomes of before are read from the ledger.")
    out.print(f"Sessions that Redis had heard more of than Postgres has now: {found}." + (" See incidents." if found else ""))
