"""Many commands of one request, made ready for the door together.

What is done to a command alone takes a dozen calls and half as many objects, which cost more than the work itself. Here the
commands of a batch are columns, filled in one loop; the bytes are the same (tests/unit/test_lots.py compares them).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from core.entries import encode_all
from core.mailbox import key
from core.model import (
    FINGERPRINT_BYTES,
    JOB_FORMAT,
    VARIANT,
    Arguments,
    CancelArguments,
    Frozen,
    Job,
    fingerprint_of,
    lane,
    partition_of_job,
)


class Wanted(Frozen):
    """One command of a batch."""

    kind: str
    session_id: int
    arguments: Arguments


class Lot:
    """Commands of one client in their order, and for each its job's id, its fingerprint and what the door takes."""

    __slots__ = ("bytes", "client", "fingerprints", "ids", "wanted")

    def __init__(self, client: str, wanted: Sequence[Wanted]) -> None:
        self.client = client
        self.wanted = wanted
        self.ids: list[str] = []
        self.fingerprints: list[str] = []
        self.bytes: list[tuple[bytes, bytes]] = []  # record up to its seq, command: see core/lua/accept.lua

    def __len__(self) -> int:
        return len(self.ids)

    def job(self, index: int, seq: int = 0, accepted_at: int = 0) -> Job:
        """A command's job, as it is accepted or on its way to the door."""
        one = self.wanted[index]
        return Job(
            JOB_FORMAT, self.ids[index], one.kind, one.session_id, self.client, self.fingerprints[index], seq, accepted_at
        )

    def parcels(self, partitions: int) -> list[Parcel]:
        """What goes to each partition."""
        found: dict[int, Parcel] = {}
        for place, (job_id, one, (record, command)) in enumerate(zip(self.ids, self.wanted, self.bytes, strict=True)):
            partition = partition_of_job(job_id, partitions)
            parcel = found.get(partition)
            if parcel is None:
                parcel = found[partition] = Parcel(partition, [], [])
            prefix = parcel.prefix
            parcel.places.append(place)
            parcel.words += (f"{prefix}job:{job_id}", f"{prefix}s:{one.session_id}", record, command)
        return list(found.values())


class Parcel:
    """Of a lot what goes to one partition, or some of that: where in the lot it stands, and four words for each."""

    __slots__ = ("partition", "places", "prefix", "words")

    def __init__(self, partition: int, places: list[int], words: list[Any]) -> None:
        self.partition = partition
        self.prefix = key(partition, "")
        self.places = places
        self.words = words

    def __len__(self) -> int:
        return len(self.places)

    @property
    def digits(self) -> str:
        """As core/lua/accept.lua wants them: their ids follow from keys, and nothing is to be told of their sessions."""
        return "1" * len(self.places)

    def split(self, count: int) -> tuple[Parcel, Parcel]:
        """The first so many, and the rest."""
        first = Parcel(self.partition, self.places[:count], self.words[: 4 * count])
        return first, Parcel(self.partition, self.places[count:], self.words[4 * count :])


def keyed_lot(secret: bytes, client: str, named: str, wanted: Sequence[Wanted]) -> Lot:
    """The lot of a batch that was sent with this Idempotency-Key: a command's job is the one that the key and its place name."""
    lot = Lot(client, wanted)
    lot.ids = _keyed_ids(secret, client, named, [(one.session_id, one.kind) for one in wanted])
    found = _fingerprints([one.arguments for one in wanted])
    lot.fingerprints = [one.hex() for one in found]
    rows = zip(wanted, lot.ids, found, strict=True)
    lot.bytes = encode_all(client, [(one.kind, one.session_id, job_id, own, one.arguments) for one, job_id, own in rows])
    return lot


def _keyed_ids(secret: bytes, client: str, named: str, asked: Iterable[tuple[int, str]]) -> list[str]:
    """`keyed_job_id` of a batch's commands (session id, kind), whose keys are the batch's with their numbers."""
    ids: list[str] = []
    begun = hmac.new(secret, f"{client}\0".encode(), "sha256")
    for index, (session_id, kind) in enumerate(asked):
        mac = begun.copy()
        mac.update(f"{session_id}\0{kind}\0{named}#{index}".encode())
        h = mac.hexdigest()
        ids.append(f"{_lane(session_id)}-{h[:4]}-8{h[4:7]}-{VARIANT[h[7]]}{h[8:11]}-{h[11:23]}")  # a UUID, as everywhere
    return ids


_lane = lru_cache(maxsize=8192)(lane)


def _fingerprints(asked: Iterable[Arguments]) -> list[bytes]:
    """`fingerprint_of` each."""
    found: list[bytes] = []
    begun = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for arguments in asked:
        if type(arguments) is CancelArguments:
            found.append(fingerprint_of(arguments))
            continue
        digest = begun.copy()
        digest.update(_pack(arguments))
        found.append(digest.digest())
    return found


_pack = msgspec.msgpack.Encoder().encode
