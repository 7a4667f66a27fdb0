"""Batches: many commands in one request; or several people, all or none."""

from __future__ import annotations

import itertools
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from core.model import batch_id, new_job_id
from core.store import SentBatch, Store, create_engine
from tests.support.http import Api, person
from tests.support.stack import Deployment

_numbers = itertools.count()


def send(api: Api, commands: list[Any], key: str, wait: int | None = 20, **more: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key, **({"Prefer": f"wait={wait}"} if wait else {})}
    return api.post("/api/batches/", json={"commands": commands, **more}, headers=headers)


def reserve(session: int, **fields: Any) -> dict[str, Any]:
    return {"session": session, "kind": "reserve", **person(), **fields}


def test_every_command_is_a_job_of_its_own(api: Api) -> None:
    one, other = api.new_session(capacity=1), api.new_session(capacity=5)
    first = reserve(one)
    cancel = {"session": one, "kind": "cancel", "email": first["email"]}
    answer = send(api, [first, reserve(one), reserve(other, seats=3), cancel, reserve(one)], "batch-of-five")
    batch = answer.json()
    assert (answer.status_code, answer.headers["Location"], batch["status"]) == (200, f"/api/batches/{batch['id']}", "done")
    assert [job["outcome"] for job in batch["jobs"]] == ["confirmed", "sold_out", "confirmed", "cancelled", "confirmed"]
    assert [job["seq"] for job in batch["jobs"]] == [1, 2, 1, 3, 4]
    assert api.get(answer.headers["Location"], headers={"Prefer": "wait=5"}).json() == batch
    assert api.job(batch["jobs"][0]["id"]) == batch["jobs"][0]


def test_a_batch_is_answered_at_once_and_followed_later(api: Api) -> None:
    session = api.new_session(capacity=1000)
    answer = send(api, [reserve(session) for _ in range(1000)], "a-thousand", wait=None)
    assert answer.status_code == 202
    done = api.get(answer.headers["Location"], headers={"Prefer": "wait=25"}).json()
    assert {job["outcome"] for job in done["jobs"]} == {"confirmed"}
    assert api.free(session) == 0


def test_a_batch_sent_again_is_the_same_batch(api: Api) -> None:
    session = api.new_session()
    commands = [reserve(session), reserve(session)]
    first, again = (send(api, commands, "sent-twice-1") for _ in range(2))
    assert (first.json(), again.headers["Idempotency-Replayed"]) == (again.json(), "true")
    other = send(api, [reserve(session)], "sent-twice-1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == 2


def test_all_or_none(api: Api) -> None:
    session = api.new_session(capacity=4, waitlist_capacity=9)
    family = send(api, [reserve(session, seats=2), reserve(session)], "family-0001", atomic=True).json()
    (job,) = family["jobs"]
    assert (job["kind"], job["seq"], job["outcome"], job["reservation"]) == ("group", 1, "confirmed", None)
    assert [one["seats"] for one in job["reservations"]] == [2, 1]
    refused = send(api, [reserve(session), reserve(session)], "family-0002", atomic=True).json()["jobs"][0]
    assert (refused["outcome"], refused["reservations"]) == ("sold_out", None)
    assert api.free(session) == 1
    twice = reserve(session)
    assert send(api, [twice, twice], "family-0003", atomic=True).json()["jobs"][0]["outcome"] == "duplicate"
    held = api.get(f"/api/sessions/{session}/").json()["reservations"]
    assert [one["seq"] for one in held] == [1, 1]
    api.cancel(session, held[0]["email"])
    assert [one["status"] for one in api.job(job["id"])["reservations"]] == ["cancelled", "confirmed"]


WRONG = [
    ([], False, {"commands"}),
    ([{}], False, {"commands[0].session", "commands[0].kind", "commands[0].email"}),
    ([7], False, {"commands[0]"}),
    ([{"session": 1, "kind": "dance", "email": "a@example.org"}], False, {"commands[0].kind"}),
    ([{"session": 1, "kind": "reserve", "email": "a@example.org"}], False, {"commands[0].name"}),
    ([{"session": 1, "kind": "cancel", "email": "a@example.org", "name": "x"}], False, {"commands[0].name"}),
    (
        [{"session": 1, "kind": "cancel", "email": "a@example.org"}, {"session": 1, "kind": "cancel", "email": "no"}],
        False,
        {"commands[1].email"},
    ),
    ([{"session": 999_999_999, "kind": "cancel", "email": "a@example.org"}], False, {"commands[0].session"}),
    ([{"session": 1, "kind": "cancel", "email": "a@example.org"}], True, {"atomic"}),
    ([{"session": 1, "kind": "reserve", "name": "A", "email": f"a{n}@example.org"} for n in range(21)], True, {"atomic"}),
    ([{"session": n, "kind": "reserve", "name": "A", "email": "a@example.org"} for n in (1, 2)], True, {"atomic"}),
    ([{"session": 1, "kind": "cancel", "email": "a@example.org"}] * 1001, False, {"commands"}),
]


@pytest.mark.parametrize(("commands", "atomic", "fields"), WRONG)
def test_what_is_wrong_is_named_by_its_index_and_nothing_is_accepted(
    api: Api, commands: list[Any], atomic: bool, fields: set[str]
) -> None:
    session = api.new_session()
    commands = [{**c, "session": session} if isinstance(c, dict) and c.get("session") == 1 else c for c in commands]
    answer = send(api, commands, "wrong-batch-1", atomic=atomic)
    assert answer.status_code == 422, answer.text
    assert {error["field"] for error in answer.json()["errors"]} == fields
    assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == 0


def test_a_batch_needs_a_key_and_may_be_larger_than_other_bodies(api: Api) -> None:
    session = api.new_session(capacity=1000)
    answer = api.post("/api/batches/", json={"commands": [reserve(session)]})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_required")
    large = send(api, [reserve(session, name="x" * 100) for _ in range(400)], "large-batch-1", wait=None)
    assert (large.status_code, len(large.request.content) > 16 * 1024) == (202, True)
    too_large = send(api, [reserve(session, name="x" * 100)] * 4000, "large-batch-2")
    assert (too_large.status_code, too_large.json()["code"]) == (413, "body_too_large")


def test_an_unknown_batch_is_404(api: Api) -> None:
    for name in ("x", "00000000-0000-8000-8000-000000000000"):
        answer = api.get(f"/api/batches/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "batch_not_found")


def test_batches_of_a_moment_are_written_down_together_and_each_as_it_was_first_sent(deployment: Deployment) -> None:
    store = Store(create_engine(deployment.settings().database_url, 1))
    one, other = (SentBatch(new_batch_id(), "open", name, False, [new_job_id(7)] * 3) for name in ("one", "other"))
    again, quoted = one._replace(fingerprint="two", client="shop"), other._replace(id=new_batch_id(), client='a "b" \\c {d},')
    first = store.found_batches([other, one, again])
    assert [fingerprint for fingerprint, _ in first] == ["other", "one", "one"]
    assert store.found_batches([again, quoted, other]) == [first[1], (quoted.fingerprint, ANY), first[0]]
    rows = deployment.sql("SELECT id::text, client, body_hash, atomic, job_ids::text[] FROM batches")
    assert sorted(SentBatch(*row) for row in rows) == sorted([one, other, quoted])
    store.dispose()


def new_batch_id() -> str:
    return batch_id(b"secret", "open", str(next(_numbers)))
