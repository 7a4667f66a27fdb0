"""Who calls: keys with scopes, as a client holds them and as they are kept, and the keys that a process has met.

A key is `aforo_<id>_<secret>`: its id finds the record, its secret (256 random bits) is kept as SHA-256 only and compared in
constant time. A slow hash would protect passwords people choose; random bits need none.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import Unavailable
from core.grouping import Grouped
from core.model import Frozen

READ: Final = "read"  # sessions, with names and addresses masked
RESERVE_AND_CANCEL: Final = "reserve"  # reserve, cancel one's own, follow one's jobs
ATTENDEES: Final = "attendees"  # see who comes
MANAGE: Final = "manage"  # create and change sessions, cancel anybody's reservation
OPERATE: Final = "operate"  # metrics and what else operators look at
SCOPES: Final = (READ, RESERVE_AND_CANCEL, ATTENDEES, MANAGE, OPERATE)

FRESH_SECONDS: Final = 2.0  # then a record is read again, beside the requests that use it
STALE_SECONDS: Final = 4.0  # then requests wait for that: so long a revoked key may work, at most
MET_MAX: Final = 10_000  # keys remembered, the unknown ones included
LOOK_UP_LIMIT: Final = 500

_TOKEN = re.compile(r"aforo_([0-9a-f]{12})_([0-9a-f]{64})", re.ASCII)
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Caller(Frozen):
    """Whoever sends a request. What `client` reserves is its own."""

    client: str
    scopes: frozenset[str]
    key_id: str | None = None
    unchecked: bool = False  # AFORO_AUTH=open: everybody is the same client, and owns all there is

    def may(self, *scopes: str) -> bool:
        """Whether it has one of these scopes."""
        return not self.scopes.isdisjoint(scopes)

    def owns(self, client: str) -> bool:
        """Whether what this client did is the caller's own."""
        return self.unchecked or client == self.client


ANYBODY: Final = Caller("open", frozenset(SCOPES), None, True)
NOBODY: Final = Caller("", frozenset())


class Key(Frozen):
    """A key as Postgres keeps it. Times are milliseconds since the epoch."""

    id: str
    client: str
    scopes: tuple[str, ...]
    digest: bytes
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def is_valid(self, now_ms: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now_ms < self.expires_at)


def new_token() -> str:
    """A fresh key, as its holder gets it; it is shown once."""
    return f"aforo_{secrets.token_hex(6)}_{secrets.token_hex(32)}"


def split_token(token: str) -> tuple[str, str] | None:
    """The id and the secret of a key; None for what is no key."""
    match = _TOKEN.fullmatch(token)
    return (match[1], match[2]) if match else None


def digest_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def key_of(token: str, client: str, scopes: Collection[str], now_ms: int, expires_at: int | None = None) -> Key:
    """The record of a fresh key. Raises ValueError for what cannot be a key, a client's name or a scope."""
    parts = split_token(token)
    if parts is None:
        raise ValueError("a key looks like aforo_<12 hex digits>_<64 hex digits>")
    if not _CLIENT.fullmatch(client):
        raise ValueError("a client's name is 1 to 64 letters, digits, dots, dashes and underscores")
    unknown = set(scopes) - set(SCOPES)
    if unknown or not scopes:
        raise ValueError(f"scopes are: {', '.join(SCOPES)}")
    ordered = tuple([scope for scope in SCOPES if scope in scopes])
    return Key(parts[0], client, ordered, digest_of(parts[1]), now_ms, expires_at)


@dataclass(slots=True)
class _Met:
    """A key's record, or that there is none, and when that was last known to be so."""

    key: Key | None
    caller: Caller
    checked_at: float


class Keyring:
    """The keys that this process has met, so that most requests ask nobody; none is believed for long.

    A revocation is written to Postgres and to Redis. While one of them cannot be reached, the other tells.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], Awaitable[Mapping[str, Key]]],
        revoked: Callable[[Sequence[str]], Awaitable[Collection[str]]],
    ) -> None:
        """`read(ids)` gives the records that Postgres has, `revoked(ids)` those that Redis says were revoked."""
        self._read = read
        self._revoked = revoked
        self._met: dict[str, _Met] = {}
        self._look_up: Grouped[str, _Met] = Grouped(self._looked_up, LOOK_UP_LIMIT)
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    def must_ask(self, token: str) -> bool:
        """Whether telling who holds this key would take more than this process knows."""
        parts = split_token(token)
        if parts is None:
            return False
        met = self._met.get(parts[0])
        return met is None or time.monotonic() - met.checked_at >= STALE_SECONDS

    def known(self, token: str) -> Caller | None:
        """Who holds this key, if that is known so freshly that nobody has to be asked."""
        parts = split_token(token)
        met = self._met.get(parts[0]) if parts else None
        if parts is None or met is None or time.monotonic() - met.checked_at >= FRESH_SECONDS:
            return None
        return _proven(met, parts[1])

    async def caller(self, token: str) -> Caller | None:
        """Who holds this key; None if it is no valid one. Raises Unavailable when that cannot be told."""
        parts = split_token(token)
        if parts is None:
            return None
        key_id, secret = parts
        return _proven(await self._present(key_id), secret)

    async def holder(self, key_id: str) -> Caller | None:
        """Who has the key of this id, which was shown before; None once it is no valid one. Raises Unavailable."""
        met = await self._present(key_id)
        return met.caller if met.key is not None and met.key.is_valid(time.time() * 1000) else None

    async def _present(self, key_id: str) -> _Met:
        met = self._met.get(key_id)
        age = STALE_SECONDS if met is None else time.monotonic() - met.checked_at
        if met is None or age >= STALE_SECONDS:
            return await self._look_up(key_id)
        if age >= FRESH_SECONDS and key_id not in self._refreshing:
            self._refreshing[key_id] = asyncio.create_task(self._refresh(key_id))
        return met

    async def _refresh(self, key_id: str) -> None:
        """Read a record again, while the requests that use it go on."""
        try:
            await self._look_up(key_id)
        except Unavailable:
            return  # the request that finds it stale will say so
        finally:
            del self._refreshing[key_id]

    async def _looked_up(self, key_ids: Sequence[str]) -> list[_Met | Exception]:
        wanted = list(dict.fromkeys(key_ids))
        began = time.monotonic()
        try:
            found: Mapping[str, Key] = await self._read(wanted)
        except Unavailable:
            return await self._without_postgres(key_ids, began)
        return self._kept(key_ids, found, began)

    async def _without_postgres(self, key_ids: Sequence[str], began: float) -> list[_Met | Exception]:
        """What was known goes on, less what Redis says was revoked; of others nothing can be said."""
        known = {key_id: met.key for key_id in key_ids if (met := self._met.get(key_id)) is not None and met.key is not None}
        gone = await self._revoked(list(known)) if known else ()
        kept = self._kept(list(known), {key_id: key for key_id, key in known.items() if key_id not in gone}, began)
        told = dict(zip(known, kept, strict=True))
        return [told.get(key_id, Unavailable()) for key_id in key_ids]

    def _kept(self, key_ids: Sequence[str], found: Mapping[str, Key], began: float) -> list[_Met | Exception]:
        for key_id in dict.fromkeys(key_ids):
            self._keep(key_id, found.get(key_id), began)
        return [self._met[key_id] for key_id in key_ids]

    def _keep(self, key_id: str, key: Key | None, checked_at: float) -> None:
        self._met.pop(key_id, None)
        while len(self._met) >= MET_MAX:
            del self._met[next(iter(self._met))]
        caller = NOBODY if key is None else Caller(key.client, frozenset(key.scopes), key.id)
        self._met[key_id] = _Met(key, caller, checked_at)


def _proven(met: _Met, secret: str) -> Caller | None:
    """Whoever has the secret of a key that is valid."""
    if met.key is None or not hmac.compare_digest(met.key.digest, digest_of(secret)):
        return None
    return met.caller if met.key.is_valid(time.time() * 1000) else None
