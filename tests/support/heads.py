"""Sessions' heads as they lie in Redis, for tests that look at single fields of one, or change them."""

from __future__ import annotations

import redis

FIELDS = "qfouvacrwls"  # see core/lua/accept.lua


def head_in(client: redis.Redis, name: str) -> dict[str, str]:
    """The fields of the head under this key; empty if there is none."""
    text = client.get(name)
    return {} if text is None else dict(zip(FIELDS, text.decode().split(), strict=True))


def change_head(client: redis.Redis, name: str, **fields: int) -> None:
    """Have the head say something else; its expiry stays."""
    changed = head_in(client, name) | {field: str(value) for field, value in fields.items()}
    client.set(name, " ".join(changed.values()), keepttl=True)
