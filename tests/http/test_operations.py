"""What operators look at: rates, latencies, mailboxes, who is alive, outcomes, the last verify, and the quarantine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.model import partition_of_session
from core.operations import Verified, note_verified, quantile
from ops import verify
from tests.support.http import Api, person
from tests.support.stack import Stack
from tests.support.waiting import until

KILLER = "ends.its.worker@example.org"


def overview(api: Api) -> dict[str, Any]:
    answer = api.get("/api/operations/")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def quiet(module_stacks: Callable[..., Stack]) -> Iterator[tuple[Stack, Api]]:
    """A stack of this file's own; the last of its tests stops parts of it."""
    stack = module_stacks()
    with Api(stack.url) as api:
        yield stack, api


def test_what_is_accepted_and_applied_shows_whichever_process_did_it(quiet: tuple[Stack, Api]) -> None:
    _, api = quiet
    session = api.new_session(capacity=3)
    for _ in range(5):
        api.reserve(session)

    def counted() -> dict[tuple[str, str], int]:
        return {(one["kind"], one["outcome"]): one["count"] for one in overview(api)["outcomes"]}

    until(lambda: counted() == {("reserve", "confirmed"): 3, ("reserve", "sold_out"): 2}, 20)

    def told(name: str) -> list[dict[str, Any]]:
        return [point for point in overview(api)["history"] if point[name]]

    # One point may lie between acceptance and outcome, and latencies come with the point after the outcomes.
    until(lambda: told("accepted") and told("applied"), 20)
    latest = until(lambda: told("p99_ms"), 20)[-1]
    assert 0 < latest["p50_ms"] <= latest["p99_ms"]


def test_the_last_verify_shows(quiet: tuple[Stack, Api]) -> None:
    stack, api = quiet
    assert overview(api)["verified"] is None
    api.reserve(api.new_session())
    verify.note(verify.run(stack.database_url, stack.redis_url), stack.redis_url)
    shown = overview(api)["verified"]
    assert (shown["ok"], shown["sessions"], shown["jobs"], shown["reservations"]) == (True, 2, 8, 4)
    note_verified(stack.redis_url, Verified(1, False, 1, 2, 1, 30, ("session 1: overbooked",), 0.1))
    assert overview(api)["verified"]["differences"] == ["session 1: overbooked"]


def test_who_lives_shows_and_who_died_is_missed_and_what_waits_shows_where(quiet: tuple[Stack, Api]) -> None:
    stack, api = quiet
    session = api.new_session()
    api.reserve(session)

    def alive() -> list[str]:
        return [one["kind"] for one in overview(api)["processes"] if not one["late"]]

    until(lambda: alive() == ["sweeper", "worker"], 20, "both give signs of life")
    stack.sweeper.stop()
    until(lambda: alive() == ["worker"], 20, "one that ended in order is not listed")
    stack.worker.kill()
    for _ in range(3):
        api.reserve(session, wait=None)
    lane = partition_of_session(session, 16)
    shown = until(lambda: (found := overview(api))["partitions"][lane]["oldest_seconds"] > 1 and found, 20)
    assert [one["waiting"] for one in shown["partitions"]] == [3 if n == lane else 0 for n in range(16)]
    assert shown["now"]["waiting"] == 3
    silent = until(lambda: [one for one in overview(api)["processes"] if one["late"]], 30, "one that was killed is late")
    assert [one["kind"] for one in silent] == ["worker"]


def test_a_stream_tells_it_about_every_second(api: Api) -> None:
    seen: list[dict[str, Any]] = []
    with api.stream("GET", "/api/operations/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
            if len(seen) == 3:
                break
    assert seen[0]["now"]["at"] < seen[1]["now"]["at"] < seen[2]["now"]["at"]
    assert len(seen[0]["partitions"]) == 16


def test_a_latency_is_found_within_its_bucket() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({0: 10}, 0.5) == 0.5
    assert quantile({1: 50, 3: 50}, 0.5) == 2
    assert 4 < (quantile({1: 50, 3: 50}, 0.99) or 0) <= 8
    assert quantile({15: 1}, 0.99) == 30_000


@pytest.fixture
def poisoned(stacks: Callable[..., Stack]) -> Iterator[tuple[Stack, Api, dict[str, Any]]]:
    """A stack with a command in quarantine."""
    stack = stacks(crash_at=f"deciding={KILLER}")
    with Api(stack.url) as api:
        session = api.new_session(capacity=5)
        accepted = api.reserve(session, {"name": "Kit", "email": KILLER}, wait=None).json()
        until(lambda: api.job(accepted["id"])["outcome"] == "quarantined", 60, "it is set aside")
        yield stack, api, accepted


def test_what_was_set_aside_is_looked_at_and_sent_again_once(poisoned: tuple[Stack, Api, dict[str, Any]]) -> None:
    stack, api, accepted = poisoned
    (one,) = api.get("/api/quarantine/").json()["commands"]
    assert (one["job"], one["kind"], one["seq"], one["sent_again"]) == (accepted["id"], "reserve", 1, None)
    assert one["arguments"]["email"] == KILLER
    path = f"/api/quarantine/{accepted['id']}/again"
    first, second = api.post(path), api.post(path, json={})
    assert (first.status_code, second.status_code, first.json()["id"]) == (202, 202, second.json()["id"])
    assert first.json()["seq"] == 2
    again = first.json()["id"]
    until(lambda: api.job(again)["outcome"] == "quarantined", 60, "it still ends its workers")
    shown = api.get("/api/quarantine/").json()["commands"]
    assert [(one["job"], one["sent_again"]) for one in shown] == [
        (again, None),
        (accepted["id"], {"job": again, "outcome": "quarantined"}),
    ]
    stack.worker.stop()
    stack.sweeper.stop()
    for process in (stack.worker, stack.sweeper):  # as after an upgrade that can decide it
        process.program.environment.pop("AFORO_CRASH_AT")
        process.start()
    healed = api.post(f"/api/quarantine/{again}/again").json()
    assert api.job(healed["id"], Prefer="wait=20")["outcome"] == "confirmed"
    assert verify.run(stack.database_url, stack.redis_url).differences == []


def test_only_what_was_set_aside_can_be_sent_again(api: Api) -> None:
    done = api.reserve(api.new_session(), person()).json()["id"]
    for unknown in (done, "00000000-0000-8000-8000-000000000000", "x"):
        answer = api.post(f"/api/quarantine/{unknown}/again")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
