"""What lies in Redis, as bytes: a command in its mailbox entry, a job in its record, a session's counters in its head.

Memory is what a backlog takes, so entries and records are msgpack and say nothing twice: a record's id is in its key, a session's
number in none of its job's reservations, an address that is its own key only once. Each carries a format; those of the release
before are read as well, and what cannot be read in a mailbox is told as such, never raised. A head is numbers between spaces: the
scripts take it apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from core.model import (
    ARGUMENTS_OF,
    JOB_FORMAT,
    RESERVE,
    SEATS_MAX,
    Arguments,
    Command,
    Frozen,
    GroupArguments,
    Job,
    JobReservation,
    ReserveArguments,
    Session,
)

ENTRY_FORMAT = 2
ENTRY_FORMAT_OF_MAPS = 1  # ids and fingerprints as text, arguments by name
FINGERPRINT_DIGITS = 16
LARGEST = 2**63 - 1
_FOUR, _SEVEN = 0x94, 0x97  # how arrays of so many begin
_EIGHT_BYTES, _SIXTEEN_BYTES = b"\xc4\x08", b"\xc4\x10"  # and so many bytes
_JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)


class Posted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A command as it lies in a mailbox entry, all but its seq and its time, which the mailbox gives."""

    format: int
    kind: str
    session_id: int
    job_id: Any  # its bytes; text in the format of before
    client: str
    body_hash: Any  # its bytes, or else text
    arguments: msgspec.Raw


class _Reserve(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The arguments of nearly all commands. No `email_key`: it is the address itself."""

    name: str
    email: str
    email_key: str | None
    seats: int


class _Usual(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """The entry of nearly every command, with nothing in it that would have to be looked at twice: see `_read_at_once`."""

    format: Literal[2]
    kind: Literal["reserve"]
    session_id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
    job_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    client: str
    body_hash: bytes
    arguments: _UsualReserve


class _UsualReserve(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    name: str
    email: str
    email_key: str | None
    seats: Annotated[int, msgspec.Meta(ge=0, le=SEATS_MAX)]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A mailbox entry that is no command; set aside at once, with what it held."""

    stream_id: str
    reason: str
    content: bytes


class Entry(Frozen):
    """A command with the mailbox entry it came in."""

    stream_id: str
    command: Command


def encode_command(kind: str, session_id: int, job_id: str, client: str, fingerprint: str, arguments: Arguments) -> bytes:
    """The bytes of one mailbox entry."""
    shown = _shown(arguments)
    return _encode((ENTRY_FORMAT, kind, session_id, _packed_id(job_id), client, _packed_hash(fingerprint), shown))


def _shown(arguments: Arguments) -> Any:
    if type(arguments) is not ReserveArguments:
        return arguments
    email, email_key = arguments.email, arguments.email_key
    return arguments.name, email, None if email_key == email else email_key, arguments.seats


def encode_all(client: str, asked: Iterable[tuple[str, int, str, bytes, Arguments]]) -> list[tuple[bytes, bytes]]:
    """Of many commands of a client (kind, session id, job id, fingerprint, arguments) what `begin_job` and `encode_command` give.
    Most of it is the same for many of them, and put together of parts."""
    encode, unhex, own = _encode, bytes.fromhex, _encode(client) + _EIGHT_BYTES
    found: list[tuple[bytes, bytes]] = []
    for kind, session_id, job_id, fingerprint, arguments in asked:
        record, command = _beginnings(kind, session_id)
        rest = own + fingerprint
        if type(arguments) is ReserveArguments:  # as in _shown, whose call would take as long as all of this line
            email, email_key = arguments.email, arguments.email_key
            shown = encode((arguments.name, email, None if email_key == email else email_key, arguments.seats))
        else:
            shown = encode(arguments)
        found.append((record + rest, command + unhex(job_id.replace("-", "")) + rest + shown))
    return found


@lru_cache(maxsize=8192)
def _beginnings(kind: str, session_id: int) -> tuple[bytes, bytes]:
    """How the record of a queued job begins, and the entry of its command, up to what is its own."""
    same = _encode((kind, session_id))[1:]
    return b"q" + bytes((_SEVEN, JOB_FORMAT)) + same, bytes((_SEVEN, ENTRY_FORMAT)) + same + _SIXTEEN_BYTES


_encode = msgspec.msgpack.Encoder().encode
_posted = msgspec.msgpack.Decoder(Posted)
_reserve = msgspec.msgpack.Decoder(_Reserve)
_usual = msgspec.msgpack.Decoder(_Usual)
_arguments = {kind: msgspec.msgpack.Decoder(shape) for kind, shape in ARGUMENTS_OF.items()}


def _packed_id(job_id: str) -> bytes:
    return bytes.fromhex(job_id.replace("-", ""))


def _job_id(packed: bytes) -> str:
    h = packed.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def _packed_hash(fingerprint: str) -> bytes | str:
    """In half the bytes, where it is what a fingerprint usually is."""
    if len(fingerprint) != FINGERPRINT_DIGITS:
        return fingerprint
    try:
        packed = bytes.fromhex(fingerprint)
    except ValueError:
        return fingerprint
    return packed if packed.hex() == fingerprint else fingerprint


def _text(packed: Any) -> str:
    """The reverse of `_packed_hash`. Raises ValueError for what it never made."""
    if isinstance(packed, bytes):
        return packed.hex()
    if isinstance(packed, str):
        return packed
    raise ValueError("a fingerprint is bytes or text")


def decode_entries(rows: Iterable[tuple[bytes, list[bytes]]]) -> list[Entry | Unreadable]:
    """What was read of a mailbox: `decode_entry` of each, which most of them do not need."""
    found: list[Entry | Unreadable] = []
    for name, flat in rows:
        stream_id = name.decode()
        entry = _read_at_once(stream_id, flat)
        if entry is None:
            entry = decode_entry(stream_id, dict(zip(flat[::2], flat[1::2], strict=True)))
        found.append(entry)
    return found


def _read_at_once(stream_id: str, flat: list[bytes]) -> Entry | None:
    """The usual entry; None for any other, and for whatever could be wrong."""
    if len(flat) != 4 or flat[0] != b"s" or flat[2] != b"c":
        return None
    try:
        seq, accepted_at = int(flat[1]), int(stream_id.partition("-")[0])
        usual = _usual.decode(flat[3])
    except (ValueError, msgspec.MsgspecError):
        return None
    client, asked, packed_id = usual.client, usual.arguments, usual.job_id
    name, email, email_key = asked.name, asked.email, asked.email_key
    is_id = packed_id[6] >> 4 == 8 and packed_id[8] >> 6 == 2
    if not (is_id and 0 < seq <= LARGEST and client.isprintable()) or "\0" in name or "\0" in email or "\0" in (email_key or ""):
        return None
    arguments = ReserveArguments(name, email, email if email_key is None else email_key, asked.seats)
    job_id, body_hash = _job_id(packed_id), usual.body_hash.hex()
    return Entry(stream_id, Command(job_id, usual.session_id, seq, RESERVE, arguments, client, body_hash, accepted_at))


def decode_entry(stream_id: str, fields: dict[bytes, bytes]) -> Entry | Unreadable:
    """Read a mailbox entry; what cannot be read comes back as Unreadable, never as an exception."""
    try:
        seq = int(fields[b"s"])
        posted = _posted.decode(fields[b"c"])
        if posted.format not in (ENTRY_FORMAT, ENTRY_FORMAT_OF_MAPS):
            raise ValueError(f"entry format {posted.format} is not known here")
        arguments = _read_arguments(posted)
        job_id = _job_id(posted.job_id) if isinstance(posted.job_id, bytes) else _text(posted.job_id)
        body_hash = _text(posted.body_hash)
        accepted_at = int(stream_id.partition("-")[0])
        _check_storable(seq, posted, job_id, body_hash, arguments)
    except (KeyError, ValueError, msgspec.MsgspecError) as exc:
        return Unreadable(stream_id, f"{type(exc).__name__}: {exc}", repr(fields).encode())
    command = Command(job_id, posted.session_id, seq, posted.kind, arguments, posted.client, body_hash, accepted_at)
    return Entry(stream_id, command)


def _read_arguments(posted: Posted) -> Arguments:
    if posted.kind == RESERVE and memoryview(posted.arguments)[0] == _FOUR:
        found = _reserve.decode(posted.arguments)
        return ReserveArguments(found.name, found.email, found.email if found.email_key is None else found.email_key, found.seats)
    arguments: Arguments = _arguments[posted.kind].decode(posted.arguments)
    return arguments


def _check_storable(seq: int, posted: Posted, job_id: str, body_hash: str, arguments: Arguments) -> None:
    """What no table could hold would fail every batch it is in, even as a quarantined command. Raises ValueError."""
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError("its job id is none")
    if not (0 < seq <= LARGEST and 0 < posted.session_id <= LARGEST):
        raise ValueError("a number is out of range")
    if not (posted.client.isprintable() and body_hash.isprintable()):
        raise ValueError("client or fingerprint has a control character")
    people = arguments.people if isinstance(arguments, GroupArguments) else (arguments,)
    may_have_nul = b"\0" in bytes(posted.arguments)  # which a number's bytes may also have
    for person in people:
        if may_have_nul and any(isinstance(text, str) and "\0" in text for text in msgspec.structs.astuple(person)):
            raise ValueError("a text has a NUL")
        if not 0 <= (getattr(person, "seats", None) or 0) <= SEATS_MAX:
            raise ValueError("so many seats there cannot be")


class Kept(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A job's record after its first byte; its id is in its key. `held`: id, status and seats of its reservation."""

    format: int
    kind: str
    session_id: int
    client: str
    body_hash: Any
    seq: int
    accepted_at: int
    outcome: str | None = None
    applied_at: int | None = None
    renumbered: bool = False
    held: tuple[int, str, int] | None = None
    party: tuple[tuple[int, str, int], ...] = ()


_kept = msgspec.msgpack.Decoder(Kept)
_old_job = msgspec.json.Decoder(Job)
_OLD = ord("[")  # how a record of the release before goes on: as JSON, with the job's id in it


def encode_job(job: Job) -> bytes:
    """A job as its Redis key holds it: 'q' (queued) or 'd' (done), then a msgpack array (`Kept`)."""
    fields = (JOB_FORMAT, job.kind, job.session_id, job.client, _packed_hash(job.body_hash), job.seq, job.accepted_at)
    if job.outcome is None:
        return b"q" + _encode(fields)
    held = job.reservation
    rest: tuple[Any, ...] = (job.outcome, job.applied_at)
    if job.renumbered or held is not None or job.party:
        rest += (job.renumbered, None if held is None else (held.id, held.status, held.seats))
    if job.party:
        rest += ([(one.id, one.status, one.seats) for one in job.party],)
    return b"d" + _encode(fields + rest)


def begin_job(job: Job) -> bytes:
    """A queued job's record up to its seq; accept.lua puts both numbers behind it."""
    fields = _encode((JOB_FORMAT, job.kind, job.session_id, job.client, _packed_hash(job.body_hash)))
    return b"q" + bytes((fields[0] + 2,)) + fields[1:]


def decode_job(record: bytes, job_id: str) -> Job:
    """The reverse of `encode_job`, for the key's own id; also for the record that the accept script completes."""
    content = memoryview(record)[1:]
    if content[0] == _OLD:
        return _old_job.decode(content)
    kept = _kept.decode(content)
    session = kept.session_id
    held = None if kept.held is None else JobReservation(kept.held[0], session, *kept.held[1:])
    return Job(
        kept.format,
        job_id,
        kept.kind,
        session,
        kept.client,
        _text(kept.body_hash),
        kept.seq,
        kept.accepted_at,
        kept.outcome,
        kept.applied_at,
        kept.renumbered,
        held,
        tuple([JobReservation(one[0], session, *one[1:]) for one in kept.party]) if kept.party else (),
    )


class SessionHead(Frozen):
    """A session's counters as Redis has them; see core/lua/accept.lua."""

    last_seq: int
    capacity: int
    reserved: int
    waiting: int
    waitlist_capacity: int
    state: str


@dataclass(frozen=True, slots=True)
class Head:
    """A session's counters as Redis has them; `version` says which state of the session they belong to, `queued_seq` which
    command was accepted last."""

    version: int
    queued_seq: int
    now: SessionHead


def read_head(text: bytes) -> Head:
    """A session's head, as its key holds it; see core/lua/accept.lua."""
    queued, _, _, _, version, seq, capacity, reserved, waiting, places, state = text.split()
    now = SessionHead(int(seq), int(capacity), int(reserved), int(waiting), int(places), state.decode())
    return Head(int(version), int(queued), now)


def told_of(session: Session) -> SessionHead:
    """The counters that its head is to have."""
    s = session
    return SessionHead(s.last_seq, s.capacity, s.reserved, s.waiting, s.waitlist_capacity, s.state)


def head_text(session: Session) -> str:
    """A session's head from its version on, as the scripts take it."""
    s = session
    return f"{s.version} {s.last_seq} {s.capacity} {s.reserved} {s.waiting} {s.waitlist_capacity} {s.state}"
