"""What Postgres's errors mean here, and what of their words may be kept.

Unavailable when it cannot serve now; anything else is somebody's fault and stays itself, but without the values it names: an
error of a constraint comes with the whole row, one of COPY with the line, and both would end in a log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import sqlalchemy
from sqlalchemy.exc import DBAPIError

from core.errors import MissingRight, NotMigrated, Unavailable

READ_ONLY = "25006"
# Postgres's own classes of "not now": read-only, resources, operator, i/o, deadlock and serialisation, lock time-out.
_NOT_NOW = (READ_ONLY, "25P0", "53", "57", "58", "40", "55P03", "08")
_OF_VALUES = "22"  # the class of errors whose first line may hold a value


@contextmanager
def translated() -> Iterator[None]:
    """Raise Unavailable for what is Postgres's state and not the statement's fault."""
    try:
        yield
    except (DBAPIError, psycopg2.Error) as exc:  # the driver's own come from COPY, which SQLAlchemy does not wrap
        cause = exc.orig if isinstance(exc, DBAPIError) else exc
        code = getattr(cause, "pgcode", None)
        if code is not None:
            _forget_values(exc, cause, code)
        if code == "42P01":
            raise NotMigrated from exc
        if code == "42501":
            raise MissingRight from exc
        if code is None and isinstance(cause, (psycopg2.OperationalError, psycopg2.InterfaceError)):
            raise Unavailable("Postgres cannot be reached.") from exc
        if code is not None and code.startswith(_NOT_NOW):
            raise Unavailable("Postgres cannot serve this now.") from exc
        raise
    except sqlalchemy.exc.TimeoutError as exc:
        raise Unavailable("All connections to Postgres are busy.") from exc


def _forget_values(exc: Exception, cause: psycopg2.Error, code: str) -> None:
    """Leave the code and the first line in an error, and of a wrong value not even that; no details, no context."""
    said = type(cause).__name__ if code.startswith(_OF_VALUES) else cause.diag.message_primary
    exc.args = cause.args = (f"{code} {said}",)
