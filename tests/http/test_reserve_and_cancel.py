"""Reserving and cancelling through gunicorn, a Celery worker and the sweeper."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.http import Api, person


def test_a_reserve_is_receipted_at_once(api: Api) -> None:
    session = api.new_session()
    answer = api.reserve(session, wait=None)
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/api/jobs/{job['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert "Preference-Applied" not in answer.headers
    assert (job["kind"], job["session_id"], job["seq"], job["status"]) == ("reserve", session, 1, "queued")
    assert (job["outcome"], job["reservation"], job["applied_at"], job["ahead"]) == (None, None, None, 0)


def test_with_prefer_wait_the_outcome_comes_in_the_answer(api: Api) -> None:
    session = api.new_session()
    answer = api.reserve(session)
    job = answer.json()
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (201, "wait=20")
    assert (job["status"], job["outcome"], job["ahead"]) == ("done", "confirmed", None)
    assert job["reservation"]["status"] == "confirmed"
    assert api.job(job["id"]) == job


def test_every_refusal_names_its_code_and_its_job(api: Api) -> None:
    session = api.new_session(capacity=1)
    ana, bo = person(), person()
    api.reserve(session, ana)
    for answer, status, code in (
        (api.reserve(session, ana), 409, "duplicate"),
        (api.reserve(session, bo), 409, "sold_out"),
        (api.cancel(session, bo["email"]), 404, "not_found"),
    ):
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["job"]["outcome"]) == (status, code, code)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Location"] == f"/api/jobs/{problem['job']['id']}"
        assert problem["detail"]


def test_a_cancelled_place_is_free_for_the_next_person_and_the_first_may_return(api: Api) -> None:
    session = api.new_session(capacity=1)
    ana, bo = person(), person()
    first = api.reserve(session, ana).json()
    assert api.cancel(session, ana["email"]).status_code == 200
    assert api.job(first["id"])["reservation"]["status"] == "cancelled"
    assert api.job(first["id"])["outcome"] == "confirmed"
    assert api.reserve(session, bo).status_code == 201
    assert api.cancel(session, bo["email"]).status_code == 200
    assert api.reserve(session, ana).status_code == 201


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Ana.Maria@Example.ORG", "ana.maria@example.org"),
        ("straße@example.org", "STRASSE@example.org"),
        ("ana@bücher.example.org", "ana@xn--bcher-kva.example.org"),
    ],
)
def test_addresses_are_compared_without_case(api: Api, first: str, second: str) -> None:
    session = api.new_session()
    assert api.reserve(session, {"name": "Ana", "email": first}).status_code == 201
    assert api.reserve(session, {"name": "Ana", "email": second}).json()["code"] == "duplicate"
    assert api.cancel(session, second).status_code == 200


def test_seq_has_no_gaps_whoever_asks_at_once(api: Api) -> None:
    session = api.new_session(capacity=500)
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: api.reserve(session, wait=None), range(200)))
    assert {answer.status_code for answer in answers} == {202}
    assert sorted(answer.json()["seq"] for answer in answers) == list(range(1, 201))
    last = max((answer.json() for answer in answers), key=lambda job: job["seq"])
    assert api.job(last["id"], Prefer="wait=20")["outcome"] == "confirmed"
    assert api.free(session) == 300


def test_who_was_answered_before_another_asked_is_ahead_of_them(api: Api) -> None:
    session = api.new_session(capacity=500)
    seqs = [api.reserve(session, wait=None).json()["seq"] for _ in range(20)]
    assert seqs == list(range(1, 21))


@pytest.mark.parametrize("session", ["999999999", "0", "01", "-1", "1.0", "x", "9" * 30, "%00", "%EF%BC%91"])
def test_a_session_that_is_not_there_is_404_at_once(api: Api, session: str) -> None:
    for kind, body in (("reserve", person()), ("cancel", {"email": "a@example.org"})):
        answer = api.post(f"/api/sessions/{session}/{kind}/", json=body, headers={"Prefer": "wait=30"})
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_slash_at_the_end_is_optional(api: Api, slash: str) -> None:
    session = api.new_session()
    assert api.post(f"/api/sessions/{session}/reserve{slash}", json=person()).status_code == 202
    assert api.get(f"/api/sessions/{session}{slash}").status_code == 200
