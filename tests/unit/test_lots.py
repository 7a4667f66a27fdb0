"""A batch is made ready, let in and shown in a few loops, and comes out as each of its commands would by itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import batchbody
from api.answers import job_answer, queued_text
from api.batchbody import batch_commands, decode_batch
from api.bodies import BatchBody
from api.messages import SOURCE
from core.door import Door, MaybeForgotten, draft_job
from core.entries import begin_job, encode_command
from core.errors import AforoError, IdempotencyKeyReused, InvalidFields, Unconfirmed, UnknownSession
from core.lots import Lot, Wanted, keyed_lot
from core.mailbox import key
from core.model import (
    CANCEL,
    CLOSE,
    GROUP,
    RESERVE,
    CancelArguments,
    GroupArguments,
    Job,
    NoArguments,
    ReserveArguments,
    Session,
    body_hash,
    keyed_job_id,
    partition_of_session,
)
from core.projections import Projections
from core.submit import Submit
from tests.sim.redis_in_memory import AsyncMemoryRedis, MemoryRedis

SECRET = b"a secret"
ANA = ReserveArguments("Ana", "ana@example.org", "ana@example.org")
IDS = st.one_of(st.integers(1, 20), st.integers(1, 2**63 - 1))
WORDS = st.one_of(st.sampled_from(["Ana", "ana@example.org", "Łukasz 李", "", "x" * 300]), st.text(max_size=20))
PEOPLE = st.builds(ReserveArguments, WORDS, WORDS, WORDS, st.integers(1, 20))
CANCELS = st.builds(CancelArguments, WORDS, WORDS, st.none() | st.integers(1, 20), st.none() | IDS, st.booleans())
GROUPS = st.builds(GroupArguments, st.lists(PEOPLE, max_size=3).map(tuple))
WANTED = st.one_of(
    st.builds(Wanted, st.just(RESERVE), IDS, PEOPLE),
    st.builds(Wanted, st.just(RESERVE), IDS, WORDS.map(lambda word: ReserveArguments("Ana", word, word))),
    st.builds(Wanted, st.just(CANCEL), IDS, CANCELS),
    st.builds(Wanted, st.just(GROUP), IDS, GROUPS),
    st.builds(Wanted, st.just(CLOSE), IDS, st.just(NoArguments())),
)
BATCHES = st.lists(WANTED, max_size=12)
KEYS = st.from_regex(r"[A-Za-z0-9_-]{8,20}", fullmatch=True)
CLIENTS = st.sampled_from(["open", "0123456789abcdef", "holder:7", "Łukasz", "c" * 40])


def lot_of(wanted: list[Wanted], client: str = "open", named: str = "a-batch-1") -> Lot:
    return keyed_lot(SECRET, client, named, wanted)


@given(BATCHES, CLIENTS, KEYS)
def test_a_batchs_commands_have_the_ids_and_bytes_they_would_have_alone(wanted: list[Wanted], client: str, named: str) -> None:
    lot = lot_of(wanted, client, named)
    for place, one in enumerate(wanted):
        job_id = keyed_job_id(SECRET, client, one.session_id, one.kind, f"{named}#{place}")
        fingerprint = body_hash(one.arguments)
        alone = draft_job(job_id, one.kind, one.session_id, client, fingerprint)
        command = encode_command(one.kind, one.session_id, job_id, client, fingerprint, one.arguments)
        assert msgspec.structs.replace(alone, accepted_at=0) == lot.job(place)
        assert lot.bytes[place] == (begin_job(alone), command)
    assert len(lot) == len(wanted)


@given(BATCHES, st.integers(1, 7), st.integers(1, 5))
def test_every_command_goes_to_its_partition_and_behind_those_before_it(
    wanted: list[Wanted], partitions: int, at_once: int
) -> None:
    lot, seen = lot_of(wanted), []
    for parcel in lot.parcels(partitions):
        places, words = [], []
        while len(parcel) > at_once:
            first, parcel = parcel.split(at_once)
            places += first.places
            words += first.words
        places += parcel.places
        words += parcel.words
        assert places == sorted(places)
        assert {partition_of_session(wanted[place].session_id, partitions) for place in places} == {parcel.partition}
        prefix = key(parcel.partition, "")
        names = [(f"{prefix}job:{lot.ids[place]}", f"{prefix}s:{wanted[place].session_id}") for place in places]
        assert words == [word for pair, place in zip(names, places, strict=True) for word in (*pair, *lot.bytes[place])]
        seen += places
    assert sorted(seen) == list(range(len(wanted)))


# -- at the door -------------------------------------------------------------------------------------------------------------


KNOWN, COLD, RETURNING = (1, 2, 3), (4, 5), 6  # sessions: with a head, with none yet, with a ledger that Redis has forgotten
SHOP = st.lists(
    st.builds(Wanted, st.just(RESERVE), st.sampled_from([*KNOWN, *KNOWN, *COLD, RETURNING, 7]), PEOPLE), min_size=1, max_size=12
)


class Side:
    """A Redis in memory, and a way in. Session 7 there is not."""

    def __init__(self, most_waiting: int, at_once: int) -> None:
        self.redis = MemoryRedis(lambda: 1_900_000_000_000)
        client: Any = AsyncMemoryRedis(self.redis)
        self.door = Door(client, 3, most_waiting, lambda partition: None, lambda *told: None)
        self.door._grouped._limit = at_once
        self._projections = Projections(client, 3, 1000)
        self.submit = Submit(self.door, self._load_head, self._recall, SECRET)

    async def begin(self) -> None:
        for session in (*KNOWN, RETURNING):
            await self._load_head(session)
        self.redis.values[key(partition_of_session(RETURNING, 3), f"s:{RETURNING}")]["f"] = 2**50

    async def _load_head(self, session_id: int) -> bool:
        if session_id in (*KNOWN, *COLD, RETURNING):
            await self._projections.put_head(Session(session_id, 9), 0)
        return session_id != 7

    async def _recall(self, job_id: str) -> Job | None:
        """Of the ledger's jobs every second is the one that is asked for."""
        found = Job(2, job_id, RESERVE, RETURNING, "open", "", 1, 2, "confirmed", 3)
        return found if int(job_id[-1], 16) % 2 else None

    async def one_by_one(self, lot: Lot) -> list[Any]:
        asked = [(lot.job(place), one.arguments) for place, one in enumerate(lot.wanted)]
        return await asyncio.gather(*(self.door.accept(*found, keyed=True) for found in asked), return_exceptions=True)

    async def submitted_one_by_one(self, lot: Lot) -> list[Any]:
        return [await self.submit(lot.job(place), one.arguments, keyed=True) for place, one in enumerate(lot.wanted)]

    def left(self) -> dict[str, Any]:
        """What lies in Redis, but for who put it there and in what order partitions had their turn."""
        found = {name: value for name, value in self.redis.values.items() if ":total:" not in name}
        return {name: list(value.values()) if name.endswith("mailbox") else value for name, value in found.items()}


def told(answer: Any) -> Any:
    """An answer, but for what only who comes alone is told."""
    return type(answer) if isinstance(answer, Exception) else (answer.job, answer.known)


async def outcome(asked: Awaitable[list[Any]]) -> Any:
    """All that was answered, or the one refusal."""
    try:
        return [told(answer) for answer in await asked]
    except (AforoError, MaybeForgotten) as exc:
        return type(exc)


@given(SHOP, SHOP, st.integers(1, 5), st.sampled_from([3, 100]))
def test_a_batch_is_told_at_the_door_what_its_commands_would_be_one_by_one(
    first: list[Wanted], second: list[Wanted], at_once: int, most_waiting: int
) -> None:
    async def run() -> None:
        together, apart = Side(most_waiting, at_once), Side(most_waiting, at_once)
        for side in (together, apart):
            await side.begin()
        for wanted in (first, first, second):
            lot = lot_of(wanted)
            assert await outcome(together.door.accept_all(lot)) == await outcome(apart.one_by_one(lot))
        assert together.left() == apart.left()

    asyncio.run(run())


@given(SHOP, st.integers(1, 5))
def test_a_batch_is_let_in_as_its_commands_would_be_one_by_one(wanted: list[Wanted], at_once: int) -> None:
    async def run() -> None:
        together, apart = Side(100, at_once), Side(100, at_once)
        for side in (together, apart):
            await side.begin()
        for _ in range(2):
            lot = lot_of(wanted)
            found = await outcome(together.submit.all(lot))
            expected = await outcome(apart.submitted_one_by_one(lot))
            if any(one.session_id == 7 for one in wanted):
                assert found is expected is UnknownSession
            else:
                assert found == expected

    asyncio.run(run())


def test_a_key_of_another_request_is_told_in_a_batch() -> None:
    async def run() -> None:
        side = Side(100, 5)
        await side.begin()
        one, other = (Wanted(RESERVE, 1, ReserveArguments(name, "a@b.org", "a@b.org")) for name in ("Ana", "Zoë"))
        await side.submit.all(lot_of([one, one]))
        with pytest.raises(IdempotencyKeyReused):
            await side.submit.all(lot_of([one, other]))

    asyncio.run(run())


def test_what_replicas_do_not_confirm_is_promised_to_nobody() -> None:
    async def run() -> None:
        side = Side(100, 5)
        await side.begin()
        side.door._replicas.are_there = False
        side.door._replicas.probe = lambda _: asyncio.sleep(0, True)  # type: ignore[assignment, method-assign, return-value]
        answers = await side.door.accept_all(lot_of([Wanted(RESERVE, session, ANA) for session in (1, 7)]))
        assert [type(answer) for answer in answers] == [Unconfirmed, UnknownSession]

    asyncio.run(run())


# -- what is sent, and what is shown ---------------------------------------------------------------------------------------

PLAIN = {"session": 1, "kind": RESERVE, "name": "Ana", "email": "ana@example.org"}
ODD: dict[str, list[Any]] = {
    "session": [0, -1, 7, 2**63 - 1, 2**63, "1", None, 1.0, True],
    "kind": [CANCEL, "dance", None, 1],
    "name": [" Zoë\u00a0", "", "a" * 100, "a" * 101, "line\nbreak", "\x7f", None, 7, ["x"]],
    "email": ["ANA@Example.ORG ", "ü@bücher.example", "a" * 300, "no address", "", None, 7],
    "seats": [1, 2, 20, 21, 0, -1, "2", None, 1.5, True],
    "more": [1],
}
ODDITIES = [{name: value} for name, values in ODD.items() for value in values]


def judged(body: BatchBody, any_client: bool) -> Any:
    """The commands, or what is wrong with them."""
    try:
        return batch_commands(body, any_client)
    except InvalidFields as exc:
        return exc.fields


def judged_alike(sent: list[Any], atomic: bool, any_client: bool) -> bool:
    """Whether a batch is read and judged as without the short way, and as command by command."""
    text = msgspec.json.encode({"commands": sent, "atomic": atomic})
    found = judged(decode_batch(text), any_client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batchbody, "_plain", lambda _: None)
        return judged(decode_batch(text), any_client) == judged(BatchBody(sent, atomic), any_client) == found


def test_the_usual_command_is_judged_as_any_other() -> None:
    for first, second in itertools.combinations([{}, {}, *ODDITIES], 2):
        sent = {**PLAIN, **first, **second}
        for found in (sent, *([] if first else [{**sent, gone: ...} for gone in PLAIN])):
            assert judged_alike([{name: value for name, value in found.items() if value is not ...}], False, True), found


@given(st.lists(st.sampled_from([PLAIN, 7, None, [], {}, *({**PLAIN, **odd} for odd in ODDITIES)]), max_size=5), st.booleans())
def test_a_batch_is_judged_as_its_commands(sent: list[Any], flag: bool) -> None:
    assert judged_alike(sent, flag, False)
    assert judged_alike(sent, False, flag)


@given(WANTED, st.integers(1, 2**62), st.integers(0, 2**42))
def test_a_queued_job_of_a_batch_is_shown_as_any_other(one: Wanted, seq: int, accepted_at: int) -> None:
    job = lot_of([one]).job(0, seq, accepted_at)
    assert queued_text(job).encode() == msgspec.json.encode(job_answer(job, str, SOURCE))
