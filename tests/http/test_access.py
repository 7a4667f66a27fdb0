"""AFORO_AUTH=keys: every route against every scope, whose reservations and jobs are whose, and what is masked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.access import NEEDED
from core.keys import SCOPES, new_token
from core.settings import Settings
from ops import keys
from tests.support.http import SESSION, Api
from tests.support.stack import Stack
from tests.support.waiting import until

SPEC = yaml.safe_load((Path(__file__).resolve().parents[2] / "openapi.yaml").read_text("utf-8"))
METHODS = ("get", "post", "patch", "delete", "put")
OPERATIONS = [(path, method) for path, item in SPEC["paths"].items() for method in item if method in METHODS]
ANA = {"name": "Ana Canaria", "email": "ana.canaria@example.org"}
FIRST = new_token()

Client = Callable[..., Api]


@pytest.fixture(scope="module")
def guarded(module_stacks: Callable[..., Stack]) -> Stack:
    """A stack that asks for keys."""
    return module_stacks(first_key=FIRST, auth="keys")


@pytest.fixture
def client(guarded: Stack) -> Iterator[Client]:
    """Makes clients with keys of their own: their name, then their scopes."""
    made: list[Api] = []

    def make(name: str, *scopes: str) -> Api:
        token, _ = keys.create(operator(guarded), name, list(scopes), None)
        made.append(with_key(guarded, token))
        return made[-1]

    yield make
    for api in made:
        api.close()


def operator(stack: Stack) -> Settings:
    """What the commands of operators run with."""
    return stack.deployment.settings(owner_url=stack.deployment.owner_url)


def with_key(stack: Stack, token: str | None) -> Api:
    api = Api(stack.url)
    if token is not None:
        api.headers["Authorization"] = f"Bearer {token}"
    return api


def needed(path: str, method: str) -> tuple[str, ...]:
    return NEEDED[path if path == "/" else path.rstrip("/")][method.upper()]


def test_the_table_and_the_contract_name_the_same_scopes() -> None:
    written = {}
    for path, method in OPERATIONS:
        alternatives = [one for one in SPEC["paths"][path][method].get("security", []) if one]
        scopes = [one["key"][0] if "key" in one else "holder" for one in alternatives]
        written[path.rstrip("/"), method] = () if scopes == ["holder"] else tuple(scopes)
    assert written == {(path.rstrip("/"), method): needed(path, method) for path, method in OPERATIONS}


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda part: part)
def test_every_route_is_open_to_the_scopes_it_needs_and_to_no_other(
    guarded: Stack, client: Client, path: str, method: str
) -> None:
    session = with_key(guarded, FIRST).new_session(capacity=5)
    with_key(guarded, FIRST).reserve(session, ANA)
    target = re.sub(r"\{\w+\}", "999999", path.replace("{session}", str(session)))
    wanted = needed(path, method)

    def answer(api: Api) -> tuple[int, str]:
        asked = {"headers": {"Accept": "application/json"}}  # no stream, which would not end
        body: dict[str, Any] = asked if method == "get" else {"json": {}, "headers": {"Idempotency-Key": "matrix-of-scopes"}}
        found = api.request(method.upper(), target, **body)
        assert api.headers.get("Authorization", "no-key-was-given").rpartition("_")[2] not in found.text
        if not any(scope in ("attendees", "manage") for scope in getattr(api, "scopes", ())):
            assert "Canaria" not in found.text
            assert ANA["email"] not in found.text
        code = found.json().get("code", "") if found.content and "json" in found.headers.get("Content-Type", "") else ""
        return found.status_code, code

    nobody, stranger = answer(with_key(guarded, None)), answer(with_key(guarded, new_token()))
    if not wanted:
        assert nobody[1] not in ("key_required", "scope_missing")
        return
    assert (nobody, stranger) == ((401, "key_required"), (401, "key_invalid"))
    for scope in SCOPES:
        api = client("matrix", scope)
        api.scopes = (scope,)  # type: ignore[attr-defined]
        status, code = answer(api)
        assert (status == 403, code == "scope_missing") == (scope not in wanted,) * 2, scope
        assert status != 401


def test_names_and_addresses_are_shown_to_those_who_may_see_them_only(guarded: Stack, client: Client) -> None:
    session = client("owner", "manage").new_session(capacity=5, waitlist_capacity=1)
    shop = client("shop", "read", "reserve")
    shop.reserve(session, ANA)
    for path in (f"/api/sessions/{session}/", f"/api/sessions/{session}/reservations/?status=all"):
        masked = shop.get(path)
        assert masked.status_code == 200
        assert "Canaria" not in masked.text
        assert ANA["email"] not in masked.text
        shown = masked.json().get("reservations") or masked.json()["results"]
        assert [(one["name"], one["email"], one["seats"], one["status"]) for one in shown] == [("***", "***@***", 1, "confirmed")]
        for scope in ("attendees", "manage"):
            assert ANA["email"] in client("owner", scope).get(path).text
    assert shop.get(f"/api/sessions/{session}/").json()["available_slots"] == 4


def test_a_reservation_belongs_to_the_client_that_made_it(client: Client) -> None:
    session = client("owner", "manage").new_session(capacity=5)
    shop, other = client("shop", "reserve"), client("other", "reserve")
    shop.reserve(session, ANA)
    stranger = other.cancel(session, ANA["email"])
    assert (stranger.status_code, stranger.json()["code"]) == (404, "not_found")
    assert other.reserve(session, ANA).json()["code"] == "duplicate"
    second_key = client("shop", "reserve")
    assert second_key.cancel(session, ANA["email"]).json()["outcome"] == "cancelled"
    shop.reserve(session, ANA)
    assert client("owner", "manage").cancel(session, ANA["email"]).json()["outcome"] == "cancelled"


def test_a_batch_cancels_its_own_clients_reservations_only(client: Client) -> None:
    session = client("owner", "manage").new_session(capacity=5)
    shop, other = client("shop", "reserve"), client("other", "reserve")
    shop.reserve(session, ANA)
    body = {"commands": [{"session": session, "kind": "cancel", "email": ANA["email"]}]}
    headers = {"Idempotency-Key": "cancel-by-batch", "Prefer": "wait=20"}
    sent = other.post("/api/batches/", json=body, headers=headers)
    assert sent.json()["jobs"][0]["outcome"] == "not_found"
    batch = f"/api/batches/{sent.json()['id']}"
    assert (other.get(batch).status_code, shop.get(batch).json()["code"]) == (200, "batch_not_found")
    mine = shop.post("/api/batches/", json=body, headers=headers)  # the same key of another client is another batch
    assert mine.json()["id"] != sent.json()["id"]
    assert mine.json()["jobs"][0]["outcome"] == "cancelled"


def test_another_clients_job_is_not_found(client: Client) -> None:
    session = client("owner", "manage").new_session(capacity=5)
    shop, other = client("shop", "reserve"), client("other", "reserve", "manage", "operate")
    mine = shop.reserve(session, ANA, Idempotency_Key="the-same-key").json()["id"]
    theirs = other.reserve(session, Idempotency_Key="the-same-key").json()["id"]
    assert mine != theirs
    assert shop.get(f"/api/jobs/{mine}").status_code == 200
    for headers in ({}, {"Prefer": "wait=1"}):
        hidden = other.get(f"/api/jobs/{mine}", headers=headers)
        assert (hidden.status_code, hidden.json()["code"]) == (404, "job_not_found")


def test_whoever_holds_a_reservation_needs_no_key(guarded: Stack, client: Client) -> None:
    session = client("owner", "manage").new_session(capacity=5)
    held = client("shop", "reserve").reserve(session, ANA).json()["reservation"]
    holder = with_key(guarded, held["manage_token"])
    path = f"/api/reservations/{held['id']}"
    assert holder.get(path).json()["email"] == ANA["email"]
    queued = holder.delete(path)
    assert queued.status_code == 202
    job = queued.headers["Location"]
    assert holder.get(job, headers={"Prefer": "wait=20"}).json()["outcome"] == "cancelled"
    assert client("shop", "reserve").get(job).status_code == 404
    for token, code in (("A" * 22, "job_not_found"), (None, "key_required")):
        assert with_key(guarded, token).get(job).json()["code"] == code


def test_a_revoked_key_opens_nothing_within_five_seconds(guarded: Stack, client: Client) -> None:
    api = client("leaver", "read")
    assert api.get("/api/sessions/").status_code == 200
    key_id = api.headers["Authorization"].split("_")[1]
    assert keys.revoke(operator(guarded), key_id)

    def refused_everywhere() -> bool:  # by both processes, whichever answers
        return all(with_key(guarded, api.headers["Authorization"][7:]).get("/api/sessions/").status_code == 401 for _ in range(8))

    until(refused_everywhere)  # see tests/unit/test_keys.py for the five seconds


def test_a_key_is_nowhere_in_the_database(guarded: Stack) -> None:
    dumped = str(guarded.deployment.sql("SELECT k::text FROM api_keys k"))
    assert FIRST.split("_")[1] in dumped
    assert FIRST.split("_")[2] not in dumped


def test_the_first_key_has_every_scope_and_is_made_once(guarded: Stack) -> None:
    found = [key for key in keys.all_keys(operator(guarded)) if key.id == FIRST.split("_")[1]]
    assert [(key.client, key.scopes) for key in found] == [("first", SCOPES)]
    assert with_key(guarded, FIRST).post("/api/sessions/", json=SESSION).status_code == 201


@pytest.mark.parametrize("header", ["Bearer", "Basic eDp5", "Bearer " + "x" * 5000, "bearer aforo_x_y", "Bearer ü"])
def test_a_malformed_key_is_answered_in_words(guarded: Stack, header: str) -> None:
    with Api(guarded.url) as api:
        answer = api.get("/api/sessions/", headers={"Authorization": header.encode()})
        assert answer.status_code == 401
        assert answer.json()["code"] in ("key_required", "key_invalid")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
