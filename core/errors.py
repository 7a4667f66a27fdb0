"""Every way in which Aforo can fail to decide. A refusal (sold out, duplicate) is an outcome, never one of these.

One shallow tree: the class names the case, its docstring is the default message, and `api/errors.py` maps each class to
one HTTP answer.
"""

from __future__ import annotations

import inspect


class AforoError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None, **values: object) -> None:
        """`message` may have fields in braces, for `values`, so that it can be said in other languages too."""
        self.template = message or inspect.cleandoc(self.__class__.__doc__ or "")
        self.values = values
        super().__init__(self.template.format(**values) if values else self.template)


class UnknownSession(AforoError):
    """There is no session with this id."""


class UnknownJob(AforoError):
    """There is no job with this id."""


class UnknownBatch(AforoError):
    """There is no batch with this id."""


class UnknownReservation(AforoError):
    """There is no reservation with this id that this token opens."""


class NotAuthenticated(AforoError):
    """A key is needed, as Authorization: Bearer."""


class UnknownKey(AforoError):
    """This key is unknown, expired or revoked."""


class ScopeMissing(AforoError):
    """This key does not allow that."""


class NotYetApplied(AforoError):
    """The command with this seq has not been applied yet. Try again shortly."""

    retry_after_seconds = 1


class InvalidFields(AforoError):
    """Some fields are missing or wrong."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self.fields = fields


class IdempotencyKeyReused(AforoError):
    """This Idempotency-Key was used before, with another body."""


class QueueFull(AforoError):
    """Too many requests are waiting already. Try again shortly."""

    retry_after_seconds = 1


class RateLimited(AforoError):
    """Too many requests. Try again later."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class Unavailable(AforoError):
    """A part that Aforo depends on cannot be reached. Try again shortly."""

    retry_after_seconds = 2


class Unconfirmed(Unavailable):
    """It was not confirmed in time that the request is safe; it may still be carried out. Repeat it with its Idempotency-Key."""


class Rearranging(Unavailable):
    """The number of partitions is being changed. Try again shortly."""


class MissingRight(Unavailable):
    """This database role may not do that. Migrate again, as the owner of the tables (AFORO_OWNER_URL)."""


class DecisionInterrupted(AforoError):
    """The batch could not be decided now; its commands stay queued and are tried again."""


class NotOwner(AforoError):
    """Erasing needs the role that owns the tables: set AFORO_OWNER_URL."""


class StillLive(AforoError):
    """This person still has reservations in sessions that are not over."""


class StillSeen(AforoError):
    """It is erased, but an older transaction still sees the old rows, which stay in the files. Run this again when it is over."""


class SettingsConflict(AforoError):
    """A setting contradicts what the database was set up with."""


class NotMigrated(AforoError):
    """The database has no Aforo tables, or older ones: run `aforo migrate`."""
