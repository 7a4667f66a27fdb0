"""The words of the domain as frozen values: sessions, reservations, commands, outcomes, and the ledger's jobs.

Nothing here does I/O or knows of HTTP, Redis or Postgres. Times are integers, milliseconds since the Unix epoch, so that
values compare and serialise exactly.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from typing import Final

import msgspec

RESERVE: Final = "reserve"
CANCEL: Final = "cancel"
CREATE: Final = "create"  # seq 0 of every session: its first settings
REPLAY: Final = "replay"  # the same job accepted again after Redis forgot it; keeps seq gapless

CONFIRMED: Final = "confirmed"
CANCELLED: Final = "cancelled"
CREATED: Final = "created"
REPLAYED: Final = "replayed"
SESSION_CANCELLED: Final = "session_cancelled"
CLOSED: Final = "closed"
DUPLICATE: Final = "duplicate"
NOT_FOUND: Final = "not_found"
SOLD_OUT: Final = "sold_out"
QUARANTINED: Final = "quarantined"

# The order in which a command meets its refusals: the first that applies is the outcome.
REFUSALS: Final = (SESSION_CANCELLED, CLOSED, DUPLICATE, NOT_FOUND, SOLD_OUT)


class Frozen(msgspec.Struct, frozen=True, gc=False):
    """Base of the domain's values."""


class ReserveArguments(Frozen):
    """Who wants a place. `email_key` is the address as compared: one live reservation per session and key."""

    name: str
    email: str
    email_key: str
    seats: int = 1


class CancelArguments(Frozen):
    """Whose reservation is to be given back."""

    email: str
    email_key: str


Arguments = ReserveArguments | CancelArguments | None
ARGUMENTS_OF: Final[dict[str, type]] = {RESERVE: ReserveArguments, CANCEL: CancelArguments}


class Session(Frozen):
    """What a decision reads of a session, and the counters it changes."""

    id: int
    capacity: int
    reserved: int = 0
    waiting: int = 0
    last_seq: int = 0
    version: int = 0
    closed_at: int | None = None
    cancelled_at: int | None = None


class Reservation(Frozen):
    """Places held, or once held, by one person. Its id is the position of the command that made it."""

    id: int
    session_id: int
    name: str
    email: str
    email_key: str
    seats: int
    status: str
    seq: int
    client: str
    created_at: int
    cancelled_at: int | None = None


class Command(Frozen):
    """One accepted request, with everything its decision needs: its place in the order, its time and its ids."""

    job_id: str
    session_id: int
    seq: int
    kind: str
    arguments: Arguments
    client: str
    body_hash: str
    accepted_at: int
    position: int = 0
    accepted_seq: int | None = None  # the seq its 202 carried, where Redis lost data and it had to be numbered anew
    replay_of: str | None = None
    quarantined: bool = False


class Effect(Frozen, array_like=True):
    """One change that a command made to one reservation; `seats` is how many places it moved."""

    kind: str
    reservation_id: int
    seats: int


class Verdict(Frozen):
    """A command with its outcome and effects: one ledger row."""

    command: Command
    outcome: str
    effects: tuple[Effect, ...] = ()
    reservation_id: int | None = None


class JobReservation(Frozen):
    """What a job shows of its reservation: no name and no e-mail address, since job ids turn up in logs."""

    id: int
    session: int
    status: str
    seats: int


class Job(Frozen, array_like=True):
    """A job as Redis keeps it: a short array, its shape told by `format`, so that releases can live side by side."""

    format: int
    id: str
    kind: str
    session_id: int
    client: str
    body_hash: str
    seq: int
    accepted_at: int
    outcome: str | None = None
    applied_at: int | None = None
    renumbered: bool = False
    reservation: JobReservation | None = None

    @property
    def status(self) -> str:
        """queued, done, or failed (it could not be decided and was set aside)."""
        if self.outcome is None:
            return "queued"
        return "failed" if self.outcome == QUARANTINED else "done"


JOB_FORMAT: Final = 1


def partition_of_session(session_id: int, partitions: int) -> int:
    """The lane a session's commands go through: crc32 of its decimal id, modulo the number of lanes."""
    return zlib.crc32(b"%d" % session_id) % partitions


def partition_of_job(job_id: str, partitions: int) -> int:
    """The lane of a job, from its id alone: the first 32 bits are its session's crc32."""
    return int(job_id[:8], 16) % partitions


def new_job_id(session_id: int) -> str:
    """A fresh job id: a version 8 UUID of the session's crc32 and 90 random bits."""
    return _job_id(session_id, secrets.token_hex(12))


def keyed_job_id(secret: bytes, client: str, session_id: int, kind: str, key: str) -> str:
    """The job id that an Idempotency-Key stands for: the same key names the same job, for ever."""
    message = "\0".join((client, str(session_id), kind, key)).encode()
    return _job_id(session_id, hmac.new(secret, message, hashlib.sha256).hexdigest())


def replay_id(job_id: str, session_id: int, accepted_seq: int) -> str:
    """The ledger id of a replay: fixed by what it repeats and where, so that its own redelivery is recognised."""
    return _job_id(session_id, hashlib.sha256(f"{job_id}/{accepted_seq}".encode()).hexdigest())


def _job_id(session_id: int, h: str) -> str:
    variant = "89ab"[int(h[7], 16) & 3]
    return f"{zlib.crc32(b'%d' % session_id):08x}-{h[0:4]}-8{h[4:7]}-{variant}{h[8:11]}-{h[11:23]}"


def body_hash(arguments: Arguments) -> str:
    """Fingerprint of what was asked: 64 bits, in hex. Two requests with equal arguments have the same."""
    return hashlib.blake2b(msgspec.msgpack.encode(arguments), digest_size=8).hexdigest()
