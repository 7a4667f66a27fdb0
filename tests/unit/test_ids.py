"""Job ids, fingerprints and what travels through Redis: fixed by what they stand for, and readable by the next release."""

from __future__ import annotations

import uuid
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import entries
from core.entries import (
    Entry,
    Unreadable,
    begin_job,
    decode_entries,
    decode_entry,
    decode_job,
    encode_command,
    encode_job,
)
from core.model import (
    JOB_FORMAT,
    RESERVE,
    CancelArguments,
    Job,
    JobReservation,
    ReserveArguments,
    body_hash,
    keyed_job_id,
    new_job_id,
    partition_of_job,
    partition_of_session,
    replay_id,
)
from tests.support.deciding import reserve

ANA = ReserveArguments("Ana", "ana@example.org", "ana@example.org")


@given(st.integers(1, 2**63 - 1), st.integers(1, 1024))
def test_a_job_id_is_a_uuid_that_tells_its_partition(session: int, partitions: int) -> None:
    job = new_job_id(session)
    parsed = uuid.UUID(job)
    assert (str(parsed), parsed.version, parsed.variant) == (job, 8, uuid.RFC_4122)
    assert partition_of_job(job, partitions) == partition_of_session(session, partitions)
    assert int(job[:8], 16) == zlib.crc32(str(session).encode())


def test_fresh_ids_differ_and_keyed_ones_follow_from_all_they_stand_for() -> None:
    assert len({new_job_id(1) for _ in range(1000)}) == 1000
    one = keyed_job_id(b"secret", "open", 1, RESERVE, "key-0001")
    assert one == keyed_job_id(b"secret", "open", 1, RESERVE, "key-0001")
    others = {
        keyed_job_id(b"other!", "open", 1, RESERVE, "key-0001"),
        keyed_job_id(b"secret", "else", 1, RESERVE, "key-0001"),
        keyed_job_id(b"secret", "open", 2, RESERVE, "key-0001"),
        keyed_job_id(b"secret", "open", 1, "cancel", "key-0001"),
        keyed_job_id(b"secret", "open", 1, RESERVE, "key-0002"),
    }
    assert len(others | {one}) == 6


def test_a_replays_id_is_fixed_by_what_it_repeats_where_and_when() -> None:
    entry = reserve("ana", 5)
    others = [msgspec.structs.replace(entry, **other) for other in ({"seq": 6}, {"accepted_at": 1}, {"job_id": new_job_id(1)})]
    assert replay_id(entry) == replay_id(msgspec.structs.replace(entry, client="another"))
    assert len({entry.job_id, *map(replay_id, [entry, *others])}) == 5


def test_equal_arguments_have_the_same_fingerprint() -> None:
    assert body_hash(ANA) == body_hash(ReserveArguments("Ana", "ana@example.org", "ana@example.org"))
    assert body_hash(ANA) != body_hash(ReserveArguments("Ana", "ana@example.org", "ana@example.org", 2))
    assert body_hash(CancelArguments("a@b.org", "a@b.org")) == body_hash(CancelArguments("a@b.org", "a@b.org"))


def test_a_command_comes_out_of_the_mailbox_as_it_went_in() -> None:
    job = new_job_id(7)
    entry = decode_entry("1900000000000-3", {b"s": b"12", b"c": encode_command(RESERVE, 7, job, "open", "ff", ANA)})
    assert isinstance(entry, Entry)
    command = entry.command
    assert (command.job_id, command.session_id, command.seq, command.accepted_at) == (job, 7, 12, 1_900_000_000_000)
    assert (command.kind, command.arguments, command.client, command.body_hash) == (RESERVE, ANA, "open", "ff")


@given(st.dictionaries(st.sampled_from([b"s", b"c", b"x"]), st.binary(max_size=60)))
def test_whatever_lies_in_a_mailbox_is_read_or_set_aside(fields: dict[bytes, bytes]) -> None:
    assert isinstance(decode_entry("1-1", fields), (Entry, Unreadable))


OLD_ID = "83dcefb7-942c-8ce8-801c-6505330e457b"
USUAL = (2, RESERVE, 7, bytes.fromhex(new_job_id(7).replace("-", "")), "open", b"12345678", ("Ana", "ana@example.org", None, 1))
OF_NO_VARIANT = bytes.fromhex(OLD_ID.replace("-", "").replace("801c", "c01c"))
ODD: list[list[object]] = [
    [1, 3, None],
    ["cancel", "dance", 7],
    [0, -1, 2**63, "7", None],
    [b"", bytes(16), b"x" * 15, b"x" * 17, "83dcefb7-942c-8ce8-801c-6505330e457b", b"\xff" * 16, 5, OF_NO_VARIANT],
    ["", "a\nb", "\0", "Łukasz", 5],
    [b"", "ff", "0123456789abcdef", "\n", 5],
    [
        ("Ana", "ana@example.org", "ANA", 20), ("", "", None, 0), ("\0", "a", None, 1), ("a", "\0", None, 1), ("a", "a", "\0", 1),
        ("Ana", "a", None, 21), ("Ana", "a", None, -1), ("Ana", "a", None), ("Ana", "a", None, 1, 1), (5, "a", None, 1),
        {"name": "Ana", "email": "a", "email_key": "a", "seats": 1}, {"email": "a", "email_key": "a"}, (), None,
    ],
]  # fmt: skip


def reads_alike(flat: list[bytes], name: bytes = b"1900000000000-3") -> bool:
    """Whether a mailbox that is read at once holds what its entry holds by itself."""
    return decode_entries([(name, flat)]) == [decode_entry(name.decode(), dict(zip(flat[::2], flat[1::2], strict=True)))]


@pytest.mark.parametrize("place", range(len(ODD)))
def test_an_odd_entry_is_read_at_once_as_by_itself(place: int) -> None:
    for odd in ODD[place]:
        posted = [*USUAL[:place], odd, *USUAL[place + 1 :]]
        assert reads_alike([b"s", b"12", b"c", msgspec.msgpack.encode(posted)]), odd


def test_an_entry_with_other_fields_is_read_at_once_as_by_itself() -> None:
    content = msgspec.msgpack.encode(USUAL)
    for flat in ([b"c", content, b"s", b"12"], [b"s", b"12", b"x", content], [b"x", b"12", b"c", content], [b"s", b"12"], []):
        assert reads_alike(flat), flat


@given(st.data())
def test_whatever_lies_in_a_mailbox_is_read_at_once_as_by_itself(data: st.DataObject) -> None:
    posted: list[object] = list(USUAL)
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(ODD) - 1))
        posted[place] = data.draw(st.sampled_from(ODD[place]))
    seq = data.draw(st.sampled_from([b"12", b"12", b"0", b"-1", b"x", b"", b"9" * 30]))
    content = msgspec.msgpack.encode(data.draw(st.sampled_from([posted, posted, posted[:-1], [*posted, "more"]])))
    content += data.draw(st.sampled_from([b"", b"", b"", b"x"]))
    name = data.draw(st.sampled_from([b"1900000000000-3", b"1-0"]))
    assert reads_alike([b"s", seq, b"c", content], name)


def test_the_usual_entry_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "decode_entry", None)
    wanted = ReserveArguments("Ana", "ANA@example.org", "ana@example.org", 3)
    rows = [encode_command(RESERVE, 7, new_job_id(7), "open", "0123456789abcdef", one) for one in (ANA, wanted)]
    found = decode_entries([(b"5-3", [b"s", b"12", b"c", row]) for row in rows])
    assert [entry.command.arguments for entry in found if isinstance(entry, Entry)] == [ANA, wanted]


@pytest.mark.parametrize(
    "job",
    [
        Job(JOB_FORMAT, new_job_id(1), RESERVE, 1, "open", "ff", 3, 1_900_000_000_000),
        Job(
            JOB_FORMAT, new_job_id(1), RESERVE, 1, "open", "ff", 3, 4, "confirmed", 5, True, JobReservation(9, 1, "confirmed", 2)
        ),
    ],
)
def test_a_job_comes_out_of_redis_as_it_went_in(job: Job) -> None:
    record = encode_job(job)
    assert record[:1] == (b"d" if job.outcome else b"q")
    assert decode_job(record, job.id) == job


def test_a_record_is_completed_by_two_numbers() -> None:
    job = Job(JOB_FORMAT, new_job_id(1), RESERVE, 1, "open", "0123456789abcdef", 2**40, 1_900_000_000_000)
    assert begin_job(job) + msgspec.msgpack.encode(job.seq) + msgspec.msgpack.encode(job.accepted_at) == encode_job(job)



def test_a_job_of_the_release_before_is_still_read() -> None:
    held = b'{"id":7,"session":1,"status":"confirmed","seats":2}'
    done = decode_job(b'd[1,"%b","reserve",1,"open","ff",1,5,"confirmed",6,false,%b,[]]' % (OLD_ID.encode(), held), OLD_ID)
    assert (done.id, done.outcome, done.reservation) == (OLD_ID, "confirmed", JobReservation(7, 1, "confirmed", 2))
    queued = decode_job(b'q[1,"%b","reserve",1,"open","ff",1,5]' % OLD_ID.encode(), OLD_ID)
    assert (queued.id, queued.outcome, queued.seq) == (OLD_ID, None, 1)


def test_a_command_of_the_release_before_is_still_applied() -> None:
    content = msgspec.msgpack.encode([1, RESERVE, 7, OLD_ID, "open", "ff", msgspec.structs.asdict(ANA)])
    entry = decode_entry("1900000000000-3", {b"s": b"12", b"c": content})
    assert isinstance(entry, Entry)
    assert (entry.command.job_id, entry.command.body_hash, entry.command.arguments) == (OLD_ID, "ff", ANA)


@pytest.mark.parametrize("fingerprint", ["", "ff", "0123456789abcdef", "0123456789ABCDEF", "01234567 89abcde", "no fingerprint"])
@pytest.mark.parametrize("key", ["ana@example.org", "ANA@example.org"])
def test_fingerprints_and_addresses_come_out_as_they_went_in(fingerprint: str, key: str) -> None:
    job, wanted = new_job_id(7), ReserveArguments("Ana", "ANA@example.org", key, 3)
    entry = decode_entry("5-3", {b"s": b"12", b"c": encode_command(RESERVE, 7, job, "open", fingerprint, wanted)})
    assert isinstance(entry, Entry)
    assert (entry.command.job_id, entry.command.body_hash, entry.command.arguments) == (job, fingerprint, wanted)
