"""Ids that do not exist: who tries many does not reach Postgres, and what comes to be is found at once, in every process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from core.bootstrap import worker_services
from core.model import new_job_id
from core.unknown import Unknown, UnknownSessions
from tests.support.http import person
from tests.support.inside import Process, with_two
from tests.support.stack import Deployment

PROBES = 1000
A_FEW = 50  # each is remembered for two seconds, and a thousand probes may take longer


@pytest.fixture
def processes(deployment: Deployment) -> Callable[..., None]:
    """Runs something with two processes of one deployment."""
    return partial(with_two, deployment)


def paths(session: int) -> list[str]:
    return [f"/api/sessions/{session}/", f"/api/sessions/{session}/reservations/", f"/api/sessions/{session}/?min_seq=3"]


def test_a_thousand_probes_of_sessions_are_a_few_queries(processes: Callable[..., None]) -> None:
    async def run(one: Process, _: Process) -> None:
        await one.new_session()
        one.statements.clear()
        for probe in range(PROBES // 4):
            name = 10**6 + probe
            assert [await one.status(path) for path in paths(name)] == [404] * 3
            assert await one.status(f"/api/sessions/{name}/reserve/", json=person()) == 404
        assert len(one.statements) <= A_FEW

    processes(run)


def test_a_thousand_probes_at_once_are_a_few_queries(processes: Callable[..., None]) -> None:
    async def run(one: Process, _: Process) -> None:
        await one.new_session()
        one.statements.clear()
        answers = await asyncio.gather(*(one.services.heads.find(10**6 + n) for n in range(PROBES)))
        assert not any(answers)
        assert len(one.statements) <= 4 * 3  # groups of 256, each of three statements

    processes(run)


def test_a_session_between_others_that_was_taken_away_is_remembered_by_itself(
    processes: Callable[..., None], deployment: Deployment
) -> None:
    async def run(one: Process, _: Process) -> None:
        gone = await one.new_session()
        await one.new_session()
        deployment.sql("DELETE FROM jobs WHERE session_id = %s", gone)
        deployment.sql("DELETE FROM sessions WHERE id = %s", gone)
        deployment.redis().flushdb()
        one.statements.clear()
        assert {await one.status(f"/api/sessions/{gone}/") for _ in range(200)} == {404}
        assert len(one.statements) <= A_FEW // 2

    processes(run)


def test_a_thousand_probes_of_a_job_are_a_few_queries(processes: Callable[..., None]) -> None:
    async def run(one: Process, _: Process) -> None:
        name = new_job_id(1)
        assert {await one.status(f"/api/jobs/{name}") for _ in range(PROBES)} == {404}
        assert {await one.status(f"/api/batches/{name}") for _ in range(PROBES)} == {404}
        assert len(one.statements) <= A_FEW

    processes(run)


def test_probes_of_many_jobs_share_their_queries(processes: Callable[..., None]) -> None:
    async def run(one: Process, _: Process) -> None:
        found = await asyncio.gather(*(one.services.jobs.find(new_job_id(1)) for _ in range(PROBES)))
        assert set(found) == {None}
        assert len(one.statements) <= 20

    processes(run)


def test_a_session_that_was_probed_is_found_once_it_is_created(processes: Callable[..., None]) -> None:
    async def run(one: Process, other: Process) -> None:
        for _ in range(20):
            name = await one.new_session() + 1
            for process in (one, other):
                assert [await process.status(path) for path in paths(name)] == [404] * 3
            assert await one.new_session() == name
            for process in (other, one):
                assert await process.status(f"/api/sessions/{name}/") == 200
                assert await process.status(f"/api/sessions/{name}/reserve/", json=person()) == 202

    processes(run)


def test_a_job_that_was_probed_is_found_once_it_is_accepted(processes: Callable[..., None], deployment: Deployment) -> None:
    async def run(one: Process, other: Process) -> None:
        session = await one.new_session()
        draft = one.services.submit.draft("reserve", session, None, "open", "the-key-of-a-job")  # type: ignore[arg-type]
        body = {"json": person(), "headers": {"Idempotency-Key": "the-key-of-a-job"}}
        assert await other.status(f"/api/jobs/{draft.id}") == 404
        assert await one.status(f"/api/sessions/{session}/reserve/", **body) == 202
        assert await other.status(f"/api/jobs/{draft.id}") == 200
        worker = worker_services(deployment.settings(job_ttl_seconds=1))
        while await asyncio.to_thread(worker.drain, int(draft.id[:8], 16) % 16):
            pass
        worker.close()
        redis = deployment.redis()
        while redis.exists(f"aforo:{{{int(draft.id[:8], 16) % 16}}}:job:{draft.id}"):
            await asyncio.sleep(0.01)
        answer = await other.http.simulate_get(f"/api/jobs/{draft.id}")  # from the ledger, at the first moment possible
        assert (answer.status_code, answer.json["outcome"]) == (200, "confirmed")

    processes(run, job_ttl_seconds=1)


def test_what_is_remembered_is_bounded_and_short() -> None:
    unknown: Unknown[int] = Unknown(seconds=60, most=100)
    for name in range(1000):
        unknown.add(name)
    assert len(unknown) == 100
    assert [unknown.get(name) for name in (0, 899, 900, 999)] == [None, None, True, True]
    unknown.discard(999)
    assert unknown.get(999) is None
    passing: Unknown[int] = Unknown(seconds=0)
    passing.add(1)
    assert (passing.get(1), len(passing)) == (None, 0)


def test_ids_beyond_the_highest_are_remembered_together() -> None:
    unknown = UnknownSessions(seconds=60)
    unknown.add(12, 10, b"word")
    unknown.add(5, 10, b"word")
    assert [unknown.word_of(name) for name in (5, 11, 2**62)] == [b"word"] * 3
    assert [unknown.word_of(name) for name in (4, 6, 10)] == [None] * 3
