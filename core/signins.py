"""Sign-ins of the console: a random cookie stands for a key, for hours, until whoever has it signs out or the key is revoked.

Redis has the SHA-256 of the cookie and the id of the key, nothing else; whoever reads it there can sign in with neither.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from core.errors import Unavailable
from core.grouping import Grouped
from core.keys import Caller

SIGNED_IN_SECONDS: Final = 12 * 3600
SIGN_IN_KEY: Final = "aforo:{operations}:console:%s"
LOOK_UP_LIMIT: Final = 100
AS_TOKEN: Final = "console:"  # noqa: S105  a word
_COOKIE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


class SignIns:
    """All sign-ins there are, whichever process they were made at. Raises Unavailable."""

    def __init__(
        self, client: redis.asyncio.Redis, secret: bytes, caller_of: Callable[[str], Awaitable[Caller | None]]
    ) -> None:
        """`caller_of(key id)`: who has this key, None once it opens nothing any more."""
        self._client = client
        self._secret = secret
        self._caller_of = caller_of
        self._key_id: Grouped[str, bytes | None] = Grouped(self._key_ids, LOOK_UP_LIMIT)

    async def begin(self, key_id: str) -> str:
        """Sign in with a key. The cookie that stands for it."""
        cookie = secrets.token_urlsafe(32)
        try:
            await self._client.set(_name(cookie), key_id, ex=SIGNED_IN_SECONDS)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        return cookie

    async def caller(self, cookie: str) -> Caller | None:
        """Who is signed in with this cookie; None if nobody is, or not any more."""
        key_id = await self._key_id(cookie) if _COOKIE.fullmatch(cookie) else None
        return None if key_id is None else await self._caller_of(key_id.decode())

    async def end(self, cookie: str) -> None:
        """Sign out."""
        try:
            await self._client.delete(_name(cookie))
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc

    def csrf_token(self, cookie: str) -> str:
        """What only a page that was served here can know of a sign-in: each change has to say it."""
        return hmac.new(self._secret, f"csrf\0{cookie}".encode(), hashlib.sha256).hexdigest()[:32]

    async def _key_ids(self, cookies: Sequence[str]) -> Sequence[bytes | None]:
        pipeline = self._client.pipeline(transaction=False)
        for cookie in cookies:
            pipeline.get(_name(cookie))
        try:
            return await pipeline.execute()
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc


def as_token(cookie: str) -> str:
    """A sign-in in the place of a key, for whoever asks later whether it is still one."""
    return AS_TOKEN + cookie


def of_token(token: str) -> str | None:
    """The reverse; None for a key."""
    return token.removeprefix(AS_TOKEN) if token.startswith(AS_TOKEN) else None


def _name(cookie: str) -> str:
    return SIGN_IN_KEY % hashlib.sha256(cookie.encode()).hexdigest()
