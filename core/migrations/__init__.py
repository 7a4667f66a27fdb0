"""The schema's history, by Alembic. `upgrade` brings a database to the newest revision; any number may call it at once.

It runs as the owner of the tables, and gives the role of the running app its rights.
"""

from __future__ import annotations

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from core.keystore import found_first_key
from core.migrations.roles import grant_to_app
from core.pgerrors import translated
from core.settings import Settings
from core.store import NO_LIMIT, create_engine, found_deployment
from core.transaction import LOCK_NAMESPACE

MIGRATION_LOCK = -1  # beside the partitions' locks, which count from 0
LOCK_WAIT = "60s"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def newest() -> str:
    """The revision this release expects."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def older() -> frozenset[str]:
    """The revisions before that. One that is not known here is a later release's, which keeps what this one needs."""
    script = ScriptDirectory.from_config(_config())
    return frozenset(found.revision for found in script.walk_revisions()) - {newest()}


def upgrade(settings: Settings) -> str:
    """Migrate to the newest revision, under an advisory lock; the first time also fix the number of partitions.

    Answers the revision. Raises Unavailable, SettingsConflict, MissingRight.
    """
    engine = create_engine(settings.owner_database, 1)
    try:
        with translated(), engine.begin() as connection:
            for limit in ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"):
                connection.exec_driver_sql(NO_LIMIT, (limit,))
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'"))
            lock = {"namespace": LOCK_NAMESPACE, "lock": MIGRATION_LOCK}
            connection.execute(text("SELECT pg_advisory_xact_lock(:namespace, :lock)"), lock)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            found_deployment(connection, settings.partitions)
            grant_to_app(connection, settings.database_url)
            if settings.first_key:
                found_first_key(connection, settings.first_key, int(time.time() * 1000))
    finally:
        engine.dispose()
    return newest()
