"""Keys by themselves: their form, and how long a process believes what it knows of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from core import keys
from core.errors import Unavailable
from core.keys import MANAGE, READ, SCOPES, Caller, Key, Keyring, digest_of, key_of, new_token, split_token

NOW = 1_900_000_000_000
TOKEN = "aforo_3f9a0c21be77_" + "5e" * 32


class Office:
    """Where keys are looked up: Postgres and Redis as far as a keyring sees them. Counts the questions."""

    def __init__(self, *known: Key) -> None:
        self.known = {key.id: key for key in known}
        self.revoked: set[str] = set()
        self.is_open = True
        self.asked = 0

    async def read(self, key_ids: Sequence[str]) -> dict[str, Key]:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.is_open:
            raise Unavailable
        return {key_id: self.known[key_id] for key_id in key_ids if key_id in self.known}

    async def told(self, key_ids: Sequence[str]) -> set[str]:
        return self.revoked & set(key_ids)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(keys.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def made(client: str = "shop", **fields: int) -> tuple[str, Key]:
    token = new_token()
    return token, msgspec.structs.replace(key_of(token, client, [READ], NOW), **fields)


def run(office: Office, story: Callable[[Keyring], Awaitable[None]]) -> None:
    async def told() -> None:
        await story(Keyring(office.read, office.told))

    asyncio.run(told())


def test_a_key_has_256_random_bits_and_its_secret_is_not_in_its_record() -> None:
    token, other = new_token(), new_token()
    key_id, secret = split_token(token) or ("", "")
    assert (len(key_id), len(secret) * 4) == (12, 256)
    assert split_token(other) != (key_id, secret)
    key = key_of(token, "shop", [MANAGE, READ], NOW)
    assert (key.id, key.digest, key.scopes) == (key_id, digest_of(secret), (READ, MANAGE))
    assert secret not in repr(key)


@pytest.mark.parametrize(
    "text", ["", "aforo_", "aforo_123456789012_abc", " " + TOKEN, TOKEN + "0", TOKEN.upper(), "x"]
)
def test_what_does_not_look_like_a_key_is_none(text: str) -> None:
    assert split_token(text) is None


@pytest.mark.parametrize(
    ("client", "scopes"),
    [("", [READ]), ("a b", [READ]), ("ü", [READ]), ("x" * 65, [READ]), ("holder:1", [READ]), ("a", []), ("a", ["all"])],
)
def test_a_key_without_a_proper_client_or_with_an_unknown_scope_is_refused(client: str, scopes: list[str]) -> None:
    with pytest.raises(ValueError, match=r"client|scopes"):
        key_of(new_token(), client, scopes, NOW)


def test_a_key_is_looked_up_once_for_all_who_use_it_at_once(clock: Clock) -> None:
    token, key = made()
    office = Office(key)

    async def story(ring: Keyring) -> None:
        callers = await asyncio.gather(*(ring.caller(token) for _ in range(50)))
        assert set(callers) == {Caller("shop", frozenset([READ]), key.id)}

    run(office, story)
    assert office.asked == 1


def test_another_secret_with_the_same_id_opens_nothing(clock: Clock) -> None:
    token, key = made()
    forged = f"aforo_{key.id}_{'0' * 64}"

    async def story(ring: Keyring) -> None:
        assert await ring.caller(forged) is None
        assert await ring.caller(token) is not None
        assert await ring.caller(forged) is None

    run(Office(key), story)


@pytest.mark.parametrize("fields", [{"revoked_at": NOW}, {"expires_at": 1}])
def test_a_key_that_is_revoked_or_expired_opens_nothing(clock: Clock, fields: dict[str, int]) -> None:
    token, key = made(**fields)

    async def story(ring: Keyring) -> None:
        assert await ring.caller(token) is None

    run(Office(key), story)


def test_a_revocation_is_seen_within_five_seconds_whether_the_key_is_busy_or_idle(clock: Clock) -> None:
    token, key = made()
    office = Office(key)

    async def story(ring: Keyring) -> None:
        assert await ring.caller(token) is not None
        office.known[key.id] = msgspec.structs.replace(key, revoked_at=NOW)
        clock.now += keys.FRESH_SECONDS + 0.1
        assert await ring.caller(token) is not None  # this one made it look
        for _ in range(5):
            await asyncio.sleep(0)
        assert await ring.caller(token) is None
        office.known[key.id] = key
        clock.now += 60
        assert await ring.caller(token) is not None
        office.known[key.id] = msgspec.structs.replace(key, revoked_at=NOW)
        clock.now += keys.STALE_SECONDS
        assert await ring.caller(token) is None

    run(office, story)
    assert keys.STALE_SECONDS < 5


def test_without_postgres_known_keys_go_on_and_redis_tells_of_revocations(clock: Clock) -> None:
    (token, key), (other, _) = made(), made()
    office = Office(key)

    async def story(ring: Keyring) -> None:
        assert await ring.caller(token) is not None
        office.is_open = False
        clock.now += 60
        assert await ring.caller(token) is not None
        with pytest.raises(Unavailable):
            await ring.caller(other)
        together = await asyncio.gather(ring.caller(token), ring.caller(other), return_exceptions=True)
        assert isinstance(together[1], Unavailable)
        office.revoked = {key.id}
        clock.now += keys.STALE_SECONDS
        assert await ring.caller(token) is None

    run(office, story)


def test_unknown_keys_do_not_fill_the_memory_and_are_not_looked_up_each_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MET_MAX", 10)
    office = Office()

    async def story(ring: Keyring) -> None:
        unknown = new_token()
        for _ in range(5):
            assert await ring.caller(unknown) is None
        assert office.asked == 1
        for _ in range(50):
            await ring.caller(new_token())
        assert len(ring._met) == 10

    run(office, story)


def test_scopes_are_as_they_are_documented() -> None:
    assert SCOPES == ("read", "reserve", "attendees", "manage", "operate")
