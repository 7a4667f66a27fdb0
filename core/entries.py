"""What lies in Redis, as bytes: a command in its mailbox entry, and a job in its record.

Each carries a format, so that releases can live side by side; what cannot be read is told as such, never raised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from core.model import ARGUMENTS_OF, SEATS_MAX, Arguments, Command, GroupArguments, Job

ENTRY_FORMAT = 1
LARGEST = 2**63 - 1
_JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)


class Posted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A command as it lies in a mailbox entry, all but its seq and its time, which the mailbox gives."""

    format: int
    kind: str
    session_id: int
    job_id: str
    client: str
    body_hash: str
    arguments: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A mailbox entry that is no command; set aside at once, with what it held."""

    stream_id: str
    reason: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A command with the mailbox entry it came in."""

    stream_id: str
    command: Command


def encode_command(kind: str, session_id: int, job_id: str, client: str, fingerprint: str, arguments: Arguments) -> bytes:
    """The bytes of one mailbox entry."""
    raw = msgspec.Raw(msgspec.msgpack.encode(arguments))
    return msgspec.msgpack.encode(Posted(ENTRY_FORMAT, kind, session_id, job_id, client, fingerprint, raw))


_posted = msgspec.msgpack.Decoder(Posted)
_arguments = {kind: msgspec.msgpack.Decoder(shape) for kind, shape in ARGUMENTS_OF.items()}


def decode_entry(stream_id: str, fields: dict[bytes, bytes]) -> Entry | Unreadable:
    """Read a mailbox entry; what cannot be read comes back as Unreadable, never as an exception."""
    try:
        seq = int(fields[b"s"])
        posted = _posted.decode(fields[b"c"])
        if posted.format != ENTRY_FORMAT:
            raise ValueError(f"entry format {posted.format} is not known here")
        arguments = _arguments[posted.kind].decode(posted.arguments)
        accepted_at = int(stream_id.partition("-")[0])
        _check_storable(seq, posted, arguments)
    except (KeyError, ValueError, msgspec.MsgspecError) as exc:
        return Unreadable(stream_id, f"{type(exc).__name__}: {exc}", repr(fields).encode())
    command = Command(posted.job_id, posted.session_id, seq, posted.kind, arguments, posted.client, posted.body_hash, accepted_at)
    return Entry(stream_id, command)


def _check_storable(seq: int, posted: Posted, arguments: Arguments) -> None:
    """What no table could hold would fail every batch it is in, even as a quarantined command. Raises ValueError."""
    if not _JOB_ID.fullmatch(posted.job_id):
        raise ValueError("its job id is none")
    if not (0 < seq <= LARGEST and 0 < posted.session_id <= LARGEST):
        raise ValueError("a number is out of range")
    if not (posted.client.isprintable() and posted.body_hash.isprintable()):
        raise ValueError("client or fingerprint has a control character")
    people = arguments.people if isinstance(arguments, GroupArguments) else (arguments,)
    may_have_nul = b"\0" in bytes(posted.arguments)  # which a number's bytes may also have
    for person in people:
        if may_have_nul and any(isinstance(text, str) and "\0" in text for text in msgspec.structs.astuple(person)):
            raise ValueError("a text has a NUL")
        if not 0 <= (getattr(person, "seats", None) or 0) <= SEATS_MAX:
            raise ValueError("so many seats there cannot be")


def encode_job(job: Job) -> bytes:
    """A job as its Redis key holds it: 'q' (queued) or 'd' (done), then a JSON array."""
    return (b"q" if job.outcome is None else b"d") + msgspec.json.encode(job)


_job = msgspec.json.Decoder(Job)


def decode_job(record: bytes) -> Job:
    """The reverse of `encode_job`, also for the record that the accept script completes."""
    return _job.decode(memoryview(record)[1:])
