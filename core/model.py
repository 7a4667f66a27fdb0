"""The words of the domain as frozen values: sessions, reservations, commands, outcomes, and the ledger's jobs.

Nothing here does I/O or knows of HTTP, Redis or Postgres. Times are integers, milliseconds since the Unix epoch, so that
values compare and serialise exactly.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import zlib
from typing import Final

import msgspec

RESERVE: Final = "reserve"
CANCEL: Final = "cancel"
GROUP: Final = "group"  # several people, all or none
AMEND: Final = "amend"  # a reservation: its name corrected, checked in at the entrance, or that taken back
CONFIGURE: Final = "configure"  # any setting that decide() reads
CLOSE: Final = "close"
REOPEN: Final = "reopen"
CANCEL_SESSION: Final = "cancel_session"
CREATE: Final = "create"  # seq 0 of every session: its first settings
REPLAY: Final = "replay"  # the same job accepted again after Redis forgot it; keeps seq gapless

FORGOTTEN: Final = "forgotten"  # the name of whoever was forgotten

# Outcomes, and among the effects the states a reservation came to.
CONFIRMED: Final = "confirmed"
WAITLISTED: Final = "waitlisted"
CANCELLED: Final = "cancelled"
REDUCED: Final = "reduced"  # some of its seats were given back
PROMOTED: Final = "promoted"  # effect: from the waitlist to a place
DEMOTED: Final = "demoted"  # effect: from a place to the waitlist
ALL_CANCELLED: Final = "all_cancelled"  # effect: every live reservation of a session at once
AMENDED: Final = "amended"
RENAMED: Final = "renamed"  # effect
CHECKED_IN: Final = "checked_in"  # effect
CHECKED_OUT: Final = "checked_out"  # effect: checked in by mistake
RESIZED: Final = "resized"
CONFIGURED: Final = "configured"
WAS_CLOSED: Final = "session_closed"
WAS_REOPENED: Final = "session_reopened"
CREATED: Final = "created"
REPLAYED: Final = "replayed"

SESSION_CANCELLED: Final = "session_cancelled"
CLOSED: Final = "closed"
NOT_OPEN: Final = "not_open"
STARTED: Final = "started"
DUPLICATE: Final = "duplicate"
NOT_FOUND: Final = "not_found"
NOT_CONFIRMED: Final = "not_confirmed"  # who waits cannot be checked in
TOO_MANY_SEATS: Final = "too_many_seats"
BELOW_RESERVED: Final = "below_reserved"
BAD_TIMES: Final = "bad_times"
TOO_MANY_MOVES: Final = "too_many_moves"
SOLD_OUT: Final = "sold_out"
QUARANTINED: Final = "quarantined"

# Outcomes of jobs whose reservation another job made: how it is by now, only the ledger says.
OF_ANOTHER: Final = frozenset({REDUCED, AMENDED})

# The order in which a command meets its refusals: the first that applies is the outcome.
REFUSALS: Final = (
    SESSION_CANCELLED,
    CLOSED,
    NOT_OPEN,
    STARTED,
    DUPLICATE,
    NOT_FOUND,
    NOT_CONFIRMED,
    TOO_MANY_SEATS,
    BELOW_RESERVED,
    BAD_TIMES,
    TOO_MANY_MOVES,
    SOLD_OUT,
)

STRICT: Final = "strict"  # the head of the waitlist waits until it fits, and nobody passes it
FILL: Final = "fill"  # the first that fits goes
REFUSE: Final = "refuse"  # a session is not made smaller than what is taken
DEMOTE: Final = "waitlist"  # the newest confirmed go to the head of the waitlist

SEATS_MAX: Final = 20
GROUP_MAX: Final = 20
IDS_PER_POSITION: Final = 32  # a position leaves room for the ids of a whole group
MOVES_MAX: Final = 50_000  # reservations that one command may promote or demote: a batch has to end in a few seconds

Unset = msgspec.UnsetType
UNSET: Final = msgspec.UNSET


class Frozen(msgspec.Struct, frozen=True, gc=False):
    """Base of the domain's values."""


class ReserveArguments(Frozen):
    """Who wants places. `email_key` is the address as compared: one live reservation per session and key."""

    name: str
    email: str
    email_key: str
    seats: int = 1


class CancelArguments(Frozen, omit_defaults=True):
    """Whose reservation is to be given back: all of it, or some seats; only this reservation, if one is named.

    `any_client`: also one that another client made.
    """

    email: str
    email_key: str
    seats: int | None = None
    reservation_id: int | None = None
    any_client: bool = False


class GroupArguments(Frozen):
    """People who come together: all get places, or none does."""

    people: tuple[ReserveArguments, ...]


class AmendArguments(Frozen, omit_defaults=True):
    """What is to be so of one live reservation, of whichever client: another name, checked in or not."""

    email: str
    email_key: str
    reservation_id: int
    name: str | Unset = UNSET
    checked_in: bool | Unset = UNSET


class ConfigureArguments(Frozen, omit_defaults=True):
    """Settings to change; times in milliseconds, None where a limit is taken away. `on_shrink`: REFUSE or DEMOTE."""

    capacity: int | Unset = UNSET
    waitlist_capacity: int | Unset = UNSET
    waitlist_policy: str | Unset = UNSET
    max_seats_per_reservation: int | Unset = UNSET
    opens_at: int | Unset | None = UNSET
    closes_at: int | Unset | None = UNSET
    start_time: int | Unset = UNSET
    end_time: int | Unset = UNSET
    on_shrink: str = REFUSE


class NoArguments(Frozen):
    """For commands that say it all by their kind."""


Arguments = ReserveArguments | CancelArguments | GroupArguments | AmendArguments | ConfigureArguments | NoArguments | None
ARGUMENTS_OF: Final[dict[str, type]] = {
    RESERVE: ReserveArguments,
    CANCEL: CancelArguments,
    GROUP: GroupArguments,
    AMEND: AmendArguments,
    CONFIGURE: ConfigureArguments,
    CLOSE: NoArguments,
    REOPEN: NoArguments,
    CANCEL_SESSION: NoArguments,
}


class Session(Frozen):
    """What a decision reads of a session, and the counters it changes. Without a time, that limit does not apply."""

    id: int
    capacity: int
    reserved: int = 0
    waiting: int = 0
    last_seq: int = 0
    version: int = 0
    closed_at: int | None = None
    cancelled_at: int | None = None
    waitlist_capacity: int = 0
    waitlist_policy: str = STRICT
    max_seats_per_reservation: int = SEATS_MAX
    opens_at: int | None = None
    closes_at: int | None = None
    start_time: int | None = None
    end_time: int | None = None

    @property
    def state(self) -> str:
        """open, closed or cancelled."""
        if self.cancelled_at is not None:
            return "cancelled"
        return "open" if self.closed_at is None else "closed"


class Reservation(Frozen):
    """Places held, or once held, by one person. Its id is the position of the command that made it, or one of the next.

    `rank` is its place in the order of the waitlist while it waits: smaller goes first.
    """

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
    rank: int | None = None
    checked_in_at: int | None = None


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
    """One change that a command made to one reservation; `seats` is how many places it moved.

    ALL_CANCELLED stands for all of a session's: its reservation is 0, its seats are those that were taken.
    """

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
    """A job as it is asked for; `format` tells how Redis keeps it (core/entries.py), so that releases can live side by side."""

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
    party: tuple[JobReservation, ...] = ()  # the reservations of a group

    @property
    def status(self) -> str:
        """queued, done, or failed (it could not be decided and was set aside)."""
        if self.outcome is None:
            return "queued"
        return "failed" if self.outcome == QUARANTINED else "done"


JOB_FORMAT: Final = 2


def partition_of_session(session_id: int, partitions: int) -> int:
    """The lane a session's commands go through: crc32 of its decimal id, modulo the number of lanes."""
    return zlib.crc32(b"%d" % session_id) % partitions


def partition_of_job(job_id: str, partitions: int) -> int:
    """The lane of a job, from its id alone: the first 32 bits are its session's crc32."""
    return int(job_id[:8], 16) % partitions


def new_job_id(session_id: int) -> str:
    """A fresh job id: a version 8 UUID of the session's crc32 and 90 random bits."""
    return _job_id(session_id, os.urandom(12).hex())


def keyed_job_id(secret: bytes, client: str, session_id: int, kind: str, key: str) -> str:
    """The job id that an Idempotency-Key stands for: the same key names the same job, for ever."""
    message = "\0".join((client, str(session_id), kind, key)).encode()
    return _job_id(session_id, hmac.digest(secret, message, "sha256").hex())


def batch_id(secret: bytes, client: str, key: str) -> str:
    """The id of the batch that an Idempotency-Key stands for."""
    digest = hmac.new(secret, f"batch\0{client}\0{key}".encode(), hashlib.sha256).hexdigest()
    return f"{digest[:8]}-{_tail(digest[8:])}"


def replay_id(entry: Command) -> str:
    """The ledger id of a replay: fixed by what it repeats, where and when, so that its own redelivery is recognised."""
    text = f"{entry.job_id}/{entry.seq}/{entry.accepted_at}"
    return _job_id(entry.session_id, hashlib.sha256(text.encode()).hexdigest())


def _job_id(session_id: int, digest: str) -> str:
    return f"{lane(session_id)}-{_tail(digest)}"


def lane(session_id: int) -> str:
    """The 32 bits with which the ids of a session's jobs begin."""
    return f"{zlib.crc32(b'%d' % session_id):08x}"


def _tail(h: str) -> str:
    """The rest of a version 8 UUID after its first 32 bits."""
    return f"{h[:4]}-8{h[4:7]}-{VARIANT[h[7]]}{h[8:11]}-{h[11:23]}"


VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def people_of(arguments: Arguments) -> tuple[str, ...]:
    """The e-mail keys of everybody a command names."""
    if type(arguments) is ReserveArguments:  # nearly all
        return (arguments.email_key,)
    if isinstance(arguments, GroupArguments):
        return tuple([person.email_key for person in arguments.people])
    if isinstance(arguments, (CancelArguments, AmendArguments)):
        return (arguments.email_key,)
    return ()


def manage_token(secret: bytes, reservation_id: int) -> str:
    """What lets its bearer see and cancel one reservation: 128 bits that follow from its id and the secret."""
    digest = hmac.new(secret, b"manage\0%d" % reservation_id, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def page_token(secret: bytes, purpose: str, text: str) -> str:
    """What shows that a page of ours gave something out, for this purpose: 128 bits that follow from it and the secret."""
    digest = hmac.new(secret, f"page\0{purpose}\0{text}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def holder(reservation_id: int) -> str:
    """The client that whoever has a reservation's manage token counts as."""
    return f"holder:{reservation_id}"


def held_by(client: str) -> int | None:
    """The reservation whose manage token such a client has; None for any other client."""
    kind, _, reservation_id = client.partition(":")
    return int(reservation_id) if kind == "holder" and reservation_id.isdigit() else None


def body_hash(arguments: Arguments) -> str:
    """Fingerprint of what was asked: 64 bits, in hex. Two requests with equal arguments have the same, whoever may do more."""
    return fingerprint_of(arguments).hex()


def fingerprint_of(arguments: Arguments) -> bytes:
    """The same as bytes."""
    if type(arguments) is CancelArguments and arguments.any_client:
        arguments = msgspec.structs.replace(arguments, any_client=False)
    return hashlib.blake2b(msgspec.msgpack.encode(arguments), digest_size=FINGERPRINT_BYTES).digest()


FINGERPRINT_BYTES: Final = 8


def batch_hash(secret: bytes, fingerprint: str) -> str:
    """The fingerprint of a batch as it is kept: keyed, so that it confirms no guess at the people in it."""
    return hmac.new(secret, f"body\0{fingerprint}".encode(), hashlib.sha256).hexdigest()[:32]


def forgotten_key(secret: bytes, session_id: int, seq: int, email_key: str) -> str:
    """What stands for the address of somebody who was forgotten, in one session: no address, and the same in all that they
    did there. `seq` is the first of it: whoever comes back and is forgotten again is somebody else."""
    message = f"forgotten\0{session_id}\0{seq}\0{email_key}".encode()
    return f"forgotten-{hmac.new(secret, message, hashlib.sha256).hexdigest()[:32]}"
