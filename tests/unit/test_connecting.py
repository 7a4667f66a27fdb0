"""Which Postgres a URL names: read as libpq reads it, with the bounds that every connection has."""

from __future__ import annotations

import pytest

from core.errors import SettingsConflict
from core.store import connection_options

SEVERAL = "postgresql://u:p%40ss@one:5432,two:5433/aforo"


def test_of_several_hosts_the_one_that_takes_writes_is_used() -> None:
    options = connection_options(SEVERAL)
    assert (options["host"], options["port"], options["dbname"]) == ("one,two", "5432,5433", "aforo")
    assert (options["user"], options["password"]) == ("u", "p@ss")
    assert options["target_session_attrs"] == "read-write"


def test_a_single_host_is_used_as_it_is() -> None:
    assert "target_session_attrs" not in connection_options("postgresql://u:p@one:5432/aforo")


def test_what_a_url_says_comes_before_our_own() -> None:
    options = connection_options(f"{SEVERAL}?target_session_attrs=any&connect_timeout=9&sslmode=verify-full")
    assert (options["target_session_attrs"], options["connect_timeout"], options["sslmode"]) == ("any", "9", "verify-full")


@pytest.mark.parametrize("url", ["postgresql://u:secret@one/aforo?colour=red", "postgresql://u:secret@[one/aforo", "u:secret"])
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SettingsConflict) as refused:
        connection_options(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
