"""Schemathesis makes up requests from openapi.yaml, right and wrong ones, one by one and along its links, and holds the running
API to the file.

Left out: /metrics and the documents, which take no input and are looked at elsewhere; streams, which do not end; the check that
every request the schema allows is accepted, because cursors, e-mail addresses and reused keys have rules that a schema cannot
say; the one that what was deleted is gone, because a reservation that was given back is still there, cancelled; and the one
that a wrong token is 401, because it must not tell whether there is such a reservation.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance, use_after_free

from tests.support.http import SESSION, Api, person
from tests.support.stack import Stack

schema = schemathesis.openapi.from_path(Path(__file__).resolve().parents[2] / "openapi.yaml")
# What is too large was not accepted either.
schema.config.checks.negative_data_rejection.expected_statuses += ["413", "414", "431"]
CHOSEN = schema.include(
    path_regex="^(?!.*/events/?$)/api/(sessions|jobs|batches|reservations|quarantine|operations)|^/healthz|^/readyz"
)
NOT_HELD_TO = [positive_data_acceptance, not_a_server_error, use_after_free, ignored_auth]
TIMEOUT_SECONDS = 40
# What walks lead to at least.
MET = {
    ("POST /api/sessions/", 201),
    ("POST /api/sessions/{session}/reserve/", 201),
    ("GET /api/jobs/{job}", 200),
    ("GET /api/reservations/{reservation}", 200),
}
WALKS_MAX = 8


def fuzzing(examples: int, always_the_same: bool = True) -> settings:
    """So many of them."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=always_the_same,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def no_server_error(answer: schemathesis.Response) -> None:
    """503 is an answer like others (a min_seq that is not applied yet); anything else from 500 on is a bug."""
    assert answer.status_code < 500 or (answer.status_code == 503 and "retry-after" in answer.headers), answer.text


@pytest.fixture
def target(live_api: Stack) -> str:
    """The stack, with a session whose id the fuzzer is likely to hit."""
    with Api(live_api.url) as api:
        api.new_session(capacity=2)
    return live_api.url


@CHOSEN.parametrize()
@fuzzing(12)
def test_whatever_is_sent_is_answered_as_written(case: schemathesis.Case, target: str) -> None:
    no_server_error(case.call_and_validate(base_url=target, timeout=TIMEOUT_SECONDS, excluded_checks=NOT_HELD_TO))


class Walk(CHOSEN.as_state_machine()):  # type: ignore[misc]
    """Goes from answer to request along the links, with what the answers say: a session is created, people reserve in it, ...

    What is made up as a right request is made a plausible one: in a session that there is, for people who come again, of a
    reservation that somebody holds.
    """

    url: str
    seen: ClassVar[Counter[tuple[str, int]]]

    def setup(self) -> None:
        with Api(self.url) as api:
            self._session = api.new_session(capacity=3, waitlist_capacity=2)
            held = api.reserve(self._session, person("dee")).json()["reservation"]
        self._people = itertools.cycle([{**person(name), "seats": 1} for name in ("ana", "bo", "cy")])
        self._created = {self._session}
        self._tokens: dict[int, str] = {held["id"]: held["manage_token"]}

    def before_call(self, case: schemathesis.Case) -> None:
        parameters, body = case.path_parameters or {}, case.body
        if case.meta.generation.mode.is_positive:
            if "session" in parameters and parameters["session"] not in self._created:
                parameters["session"] = self._session
            if "reservation" in parameters and parameters["reservation"] not in self._tokens:
                parameters["reservation"] = next(reversed(self._tokens))
            if case.operation.label == "POST /api/sessions/":
                body |= {**SESSION, "opens_at": None, "closes_at": None}
            elif case.operation.label.endswith(("/reserve/", "/cancel/")):
                body |= {name: value for name, value in next(self._people).items() if name in body}
                case.headers["Prefer"] = "wait=20"
        case.headers = {name: str(value) for name, value in (case.headers or {}).items()}  # a guessed link may bring a number
        token = self._tokens.get(parameters.get("reservation"))
        if token is not None:
            case.headers["Authorization"] = f"Bearer {token}"

    def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
        return {"base_url": self.url, "timeout": TIMEOUT_SECONDS}

    def after_call(self, response: schemathesis.Response, case: schemathesis.Case) -> None:
        super().after_call(response, case)
        self.seen[case.operation.label, response.status_code] += 1
        if response.status_code == 201 and case.operation.label == "POST /api/sessions/":
            self._created.add(response.json()["id"])
        held = response.json().get("reservation") if response.status_code == 201 and "/reserve" in case.operation.label else None
        if held:
            self._tokens[held["id"]] = held["manage_token"]

    def validate_response(self, response: schemathesis.Response, case: schemathesis.Case, *_: Any, **kwargs: Any) -> None:
        no_server_error(response)
        case.validate_response(response, excluded_checks=NOT_HELD_TO, transport_kwargs=kwargs, recorder=self.recorder)


def walk(url: str, walks: int, always_the_same: bool = True) -> Counter[tuple[str, int]]:
    """Go so many ways, of up to 15 requests each. Which operations were answered with which status, and how often."""
    seen: Counter[tuple[str, int]] = Counter()
    machine = type("WalkThere", (Walk,), {"url": url, "seen": seen})
    machine.run(settings=settings(fuzzing(walks, always_the_same), stateful_step_count=15))
    return seen


def test_whatever_follows_from_an_answer_is_answered_as_written(target: str) -> None:
    seen: Counter[tuple[str, int]] = Counter()
    for number in range(WALKS_MAX):  # a way depends on how far a job is when it is asked for, and so on the machine
        seen += walk(target, 12, always_the_same=number == 0)
        if seen.keys() >= MET:
            return
    assert seen.keys() >= MET
