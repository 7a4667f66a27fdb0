"""Idempotency-Key: the same key is the same job."""

from __future__ import annotations

from tests.support.http import Api, person


def test_a_repeat_is_answered_as_the_first_request_would_be_answered_now(api: Api) -> None:
    session, ana = api.new_session(), person()
    first = api.reserve(session, ana, wait=None, Idempotency_Key="repeat-001")
    again = api.reserve(session, ana, Idempotency_Key="repeat-001")
    assert (first.status_code, "Idempotency-Replayed" in first.headers) == (202, False)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    for name in ("id", "seq", "accepted_at"):
        assert again.json()[name] == first.json()[name]
    assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == 1


def test_a_repeated_refusal_is_the_same_refusal(api: Api) -> None:
    session = api.new_session(capacity=0)
    answers = [api.reserve(session, person("ana"), Idempotency_Key="refused-1") for _ in range(2)]
    assert [answer.json()["code"] for answer in answers] == ["sold_out", "sold_out"]
    assert answers[0].json()["job"] == answers[1].json()["job"]


def test_a_key_with_another_body_is_refused(api: Api) -> None:
    session = api.new_session()
    api.reserve(session, person(), Idempotency_Key="another-body")
    answer = api.reserve(session, person(), Idempotency_Key="another-body")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_what_only_reads_differently_is_the_same_body(api: Api) -> None:
    session = api.new_session()
    api.reserve(session, {"name": "Ana", "email": "ana@example.org"}, Idempotency_Key="same-body")
    again = api.post(
        f"/api/sessions/{session}/reserve/",
        content=b'{ "email":"ana@example.org",\n"name" : " Ana " }',
        headers={"Content-Type": "application/json", "Idempotency-Key": "same-body"},
    )
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")


def test_a_key_stands_for_one_session_and_one_kind_of_request(api: Api) -> None:
    one, other, ana = api.new_session(), api.new_session(), person()
    jobs = [
        api.reserve(one, ana, Idempotency_Key="scope-of-key").json()["id"],
        api.reserve(other, ana, Idempotency_Key="scope-of-key").json()["id"],
        api.cancel(one, ana["email"], Idempotency_Key="scope-of-key").json()["id"],
    ]
    assert len(set(jobs)) == 3


def test_without_a_key_every_request_is_a_job_of_its_own(api: Api) -> None:
    session, ana = api.new_session(), person()
    assert api.reserve(session, ana).status_code == 201
    assert api.reserve(session, ana).json()["code"] == "duplicate"
