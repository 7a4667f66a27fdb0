"""A canary: somebody with a name like no other goes every way there is, and turns up where people belong and nowhere else.

Where people belong: reservations, what reads them, the ledger, a mailbox entry until it is applied. Not in any log (Postgres's
and Valkey's included), metric, doorbell, key of Redis, error, or answer about a job.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from core.doorbell import celery_app
from core.entries import ENTRY_FORMAT
from core.mailbox import key
from core.model import partition_of_session
from ops import verify
from tests.conftest import temporary_folder
from tests.support.heads import change_head
from tests.support.http import Api
from tests.support.stack import Servers, Stack
from tests.support.waiting import until

MARKS = ("quetzalcoatl", "zanzibar")
EMAIL = "quetzalcoatl@zanzibar.example.org"
KILLER = "quetzalcoatl.kills@zanzibar.example.org"  # whoever decides about this one dies
REFUSED = "Quetzalcoatl Refused"  # a constraint of the table does not take this one


def canary(which: str = "", name: str = "Quetzalcoatl Zanzibar") -> dict[str, Any]:
    """The canary, or a relative."""
    return {"name": name, "email": EMAIL.replace("@", f"{which}@")}


def marks_in(text: str) -> list[str]:
    """Where the canary shows, with what stands around it."""
    low = text.lower()
    places = [place for mark in MARKS if (place := low.find(mark)) >= 0]
    return [text[max(0, place - 150) : place + 150] for place in places]


MALFORMED = (
    json.dumps(canary())[:-3].encode(),
    json.dumps([canary()]).encode(),
    json.dumps(EMAIL).encode(),
    b'{"name": NaN, "email": "' + EMAIL.encode() + b'"}',
    json.dumps(canary(), ensure_ascii=False).encode("utf-16"),
    b"\xff" + json.dumps(canary()).encode(),
    *(
        json.dumps(body).encode()
        for body in (
            {**canary(), "name": [EMAIL]},
            {**canary(), "name": "Quetzalcoatl" * 50},
            {**canary(), "name": "Quetzalcoatl\0"},
            {**canary(), "name": "Quetzalcoatl\ud800"},
            {**canary(), "seats": "quetzalcoatl"},
            {**canary(), "seats": 99},
            {**canary(), "quetzalcoatl": "zanzibar"},
            {EMAIL: EMAIL},
            {"email": EMAIL},
            *({"name": "Q", "email": wrong} for wrong in (f"@{EMAIL}", f"{EMAIL} x", EMAIL + "\0", "quetzalcoatl", EMAIL * 10)),
            {**canary(), "padding": "x" * 20_000},
        )
    ),
)
PATHS = (
    "/api/sessions/{}/", "/api/sessions/{}/reservations/", "/api/jobs/{}", "/api/batches/{}", "/api/reservations/{}",
    "/api/reservations/{}.ics", "/api/docs/{}", "/nothing/{}", "/api/sessions/?q={}", "/api/sessions/?page={}",
    "/api/sessions/?cursor={}", "/api/sessions/?ordering={}", "/api/sessions/?available={}", "/api/sessions/?starts_after={}",
    "/api/sessions/?{}=1", "/api/reservations/?email={}&cursor={}", "/api/reservations/?email=x{}", "/healthz?{}", "/readyz/{}",
)  # fmt: skip
HEADERS = (
    "X-Request-Id", "Prefer", "Accept-Language", "Accept", "If-None-Match", "Cookie", "Origin", "Referer", "User-Agent",
    "X-Forwarded-For", "Last-Event-ID", "Idempotency-Key", "Content-Type", "Authorization",
)  # fmt: skip


class Flight:
    """The canary's way through a stack of its own, and the answers it got."""

    def __init__(self, servers: Servers, stack: Stack, metrics: Path) -> None:
        self.servers, self.stack, self.metrics_folder = servers, stack, metrics
        self.redis = stack.deployment.redis()
        self.answers: list[httpx.Response] = []
        self.api = Api(stack.url)
        self.api.event_hooks["response"].append(self._keep)
        self.session = self.api.new_session(capacity=100)

    def _keep(self, answer: httpx.Response) -> None:
        answer.read()
        self.answers.append(answer)

    def outcome(self, answer: httpx.Response) -> str:
        body = answer.json()
        return body.get("outcome") or body.get("code")

    def is_done(self, accepted: httpx.Response) -> bool:
        """Whether the job has its outcome by now."""
        return self.api.job(accepted.json()["id"])["outcome"] is not None

    # -- the usual ways --------------------------------------------------------------------------------------------------

    def reserves_and_cancels(self) -> None:
        api, small = self.api, self.api.new_session(capacity=1, waitlist_capacity=1)
        first = api.reserve(small, canary())
        answers = [first, api.reserve(small, canary()), api.reserve(small, canary("2")), api.reserve(small, canary("3"))]
        assert [self.outcome(answer) for answer in answers] == ["confirmed", "duplicate", "waitlisted", "sold_out"]
        assert self.outcome(api.cancel(small, "nobody." + EMAIL)) == "not_found"
        held = first.json()["reservation"]
        token = {"Authorization": f"Bearer {held['manage_token']}"}
        assert api.get(f"/api/reservations/{held['id']}", headers=token).json()["email"] == EMAIL
        assert api.get(f"/api/reservations/{held['id']}", headers={"Authorization": f"Bearer {EMAIL}"}).status_code >= 400
        assert len(api.get("/api/reservations/", params={"email": EMAIL}).json()["results"]) == 1
        amended = [api.patch(f"/api/reservations/{held['id']}", json=changes, headers={"Prefer": f"wait={seconds}"})
                   for changes, seconds in (({"name": "Quetzalcoatl II"}, 20), ({"name": "Zanzibar" * 50}, 0), ({EMAIL: 1}, 0))]
        assert [answer.status_code for answer in amended] == [200, 422, 422]
        assert api.delete(f"/api/reservations/{held['id']}", headers={**token, "Prefer": "wait=20"}).status_code == 200
        assert api.reserve(999_999_999, canary()).status_code == 404
        for body, status in ((canary(), 202), (canary("2"), 422)):
            assert api.reserve(self.session, body, wait=None, Idempotency_Key="quetzalcoatl-1").status_code == status

    def batches(self) -> None:
        commands = [{"session": self.session, "kind": "reserve", **canary(f"-{n}")} for n in range(3)]
        good: dict[str, Any] = {"commands": commands}
        for number, body in enumerate((good, {**good, "atomic": True}, {"commands": [{**commands[0], "kind": EMAIL}]}, [EMAIL])):
            named = {"Idempotency-Key": f"quetzalcoatl-{number}", "Prefer": "wait=20"}
            assert self.api.post("/api/batches/", json=body, headers=named).status_code < 500
        assert self.api.post("/api/batches/", json=good, headers={"Idempotency-Key": EMAIL}).status_code == 422

    def malformed(self) -> None:
        as_json = {"Content-Type": "application/json"}
        for body in MALFORMED:
            for path in (f"/api/sessions/{self.session}/reserve/", f"/api/sessions/{self.session}/cancel/", "/api/sessions/"):
                assert 202 <= self.api.post(path, content=body, headers=as_json).status_code < 500
        assert self.api.patch(f"/api/sessions/{self.session}/", json={EMAIL: 1, "start_time": EMAIL}).status_code == 422

    def elsewhere(self) -> None:
        for path in PATHS:
            self.api.get(path.replace("{}", EMAIL))
            self.api.post(path.replace("{}", EMAIL.replace("@", "%40")), json=canary())
        for name in HEADERS:
            self.api.post(f"/api/sessions/{self.session}/cancel/", content=b'{"email":"x@y.org"}', headers={name: EMAIL})
        assert {answer.status_code for answer in self.answers if answer.status_code >= 500} == set()

    # -- trouble ---------------------------------------------------------------------------------------------------------

    def without_a_right(self) -> None:
        self.stack.deployment.sql("REVOKE SELECT ON reservations FROM aforo_app")
        accepted = self.api.reserve(self.session, canary("-r"), wait=None)
        until(lambda: "permission denied" in self.servers.postgres.output(), 30, "Postgres refuses a statement that names it")
        self.stack.deployment.sql("GRANT SELECT ON reservations TO aforo_app")
        until(lambda: self.is_done(accepted), 30, "it is applied after all")

    def against_a_constraint(self) -> None:
        constraint = f"ALTER TABLE reservations ADD CONSTRAINT no_such_name CHECK (name <> '{REFUSED}')"
        self.stack.deployment.sql(constraint)
        accepted = self.api.reserve(self.session, canary("-c", REFUSED), wait=None)
        until(lambda: self.is_done(accepted), 60, "it is set aside")
        until(lambda: "no_such_name" in self.stack.sweeper.output(), 30, "the error is in a log")

    def unreadable(self) -> None:
        entry = [ENTRY_FORMAT, EMAIL, self.session, EMAIL, EMAIL, EMAIL, canary()]
        mailbox = key(partition_of_session(self.session, 16), "mailbox")
        for fields in ({EMAIL: EMAIL}, {"s": EMAIL, "c": EMAIL}, {"s": 1, "c": msgspec.msgpack.encode(entry)}):
            self.redis.xadd(mailbox, fields)
        until(lambda: self.stack.deployment.sql("SELECT count(*) FROM unreadable") == [(3,)], 30, "they are set aside")

    def renumbered(self) -> None:
        change_head(self.redis, key(partition_of_session(self.session, 16), f"s:{self.session}"), q=1)
        accepted = self.api.reserve(self.session, canary("-n"))
        assert accepted.json()["renumbered"] is True

    def kills_its_workers(self) -> None:
        accepted = self.api.reserve(self.session, {**canary(), "email": KILLER}, wait=None)

        def is_quarantined() -> bool:
            if self.stack.sweeper.process.poll() is not None:
                self.stack.sweeper.start()
            return self.is_done(accepted)

        until(is_quarantined, 60, "it is in quarantine")

    def meets_a_bug(self) -> httpx.Response:
        self.stack.deployment.sql("ALTER TABLE sessions RENAME COLUMN description TO gone")
        answer = self.api.get(f"/api/sessions/?q={MARKS[0]}")
        self.stack.deployment.sql("ALTER TABLE sessions RENAME COLUMN gone TO description")
        return answer

    def doorbell(self) -> str:
        """What the broker holds after a ring that nobody answers."""
        self.stack.worker.kill()
        self.stack.sweeper.kill()
        bell = key(partition_of_session(self.session, 16), "bell")
        until(lambda: not self.redis.exists(bell), 10, "nobody is on the way")
        accepted = self.api.reserve(self.session, canary("-d"), wait=None)
        messages = until(lambda: self.redis.lrange("aforo", 0, -1), 10, "the bell has rung")
        rung = [json.loads(message) for message in messages]
        self.stack.sweeper.start()
        until(lambda: self.is_done(accepted), 30, "the sweeper has applied it")
        return json.dumps(rung) + "".join(base64.b64decode(message["body"]).decode() for message in rung)


def everything_in(client: redis.Redis) -> Iterator[str]:
    """Every key of a Redis, and what it holds."""
    for name in client.scan_iter():
        kind = client.type(name)
        readers: dict[bytes, Any] = {
            b"string": lambda n: [client.get(n)],
            b"hash": client.hgetall,
            b"list": lambda n: client.lrange(n, 0, -1),
            b"set": client.smembers,
            b"zset": lambda n: client.zrange(n, 0, -1),
            b"stream": client.xrange,
        }
        yield f"{name!r}: {readers[kind](name)!r}"


@pytest.fixture(scope="module")
def flight() -> Iterator[Flight]:
    """The usual ways flown, on servers whose logs are nobody else's; the stack still runs."""
    with temporary_folder("canary") as folder:
        (folder / "stack").mkdir()
        servers = Servers(folder)
        stack = Stack(servers.deployment(), folder / "stack", log_level="debug", crash_at=f"deciding={KILLER}")
        try:
            flight = Flight(servers, stack, folder / "stack" / "metrics")
            flight.reserves_and_cancels()
            flight.batches()
            flight.malformed()
            flight.elsewhere()
            yield flight
        finally:
            for process in (stack.api, stack.worker, stack.sweeper):
                process.kill()  # nothing here has to last
            stack.close()
            servers.close()


@pytest.fixture(scope="module")
def landed(flight: Flight) -> Flight:
    """After the trouble too."""
    flight.without_a_right()
    flight.against_a_constraint()
    flight.unreadable()
    flight.renumbered()
    flight.kills_its_workers()
    return flight


def test_no_error_and_no_answer_about_a_job_names_anybody(flight: Flight) -> None:
    told = [answer for answer in flight.answers if answer.status_code >= 400 or answer.request.method != "GET"]
    assert len(told) > 80
    found = {f"{a.request.method} {a.request.url.path} {a.status_code}": marks_in(a.text) for a in told}
    assert {where: marks for where, marks in found.items() if marks} == {}
    assert [marks for answer in flight.answers if (marks := marks_in(repr(answer.headers)))] == []


def test_a_bug_is_answered_without_a_word_on_what_happened(landed: Flight) -> None:
    answer = landed.meets_a_bug()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    telling = ("Traceback", "psycopg2", "sqlalchemy", "SELECT", "description", MARKS[0])
    assert [word for word in telling if word in answer.text] == []
    assert "UndefinedColumn" in landed.stack.api.output()


def test_nothing_that_it_took_was_denied_to_the_app(landed: Flight) -> None:
    """Valkey notes what its user was not allowed; see tests/fault/test_rights.py."""
    with closing(celery_app(landed.stack.redis_url)) as broker:  # as the worker's healthcheck does
        until(lambda: broker.control.inspect(timeout=1).ping(), 30, "the worker answers through the broker")
    assert verify.run(landed.stack.database_url, landed.stack.redis_url).sessions > 0
    assert landed.redis.execute_command("ACL", "LOG") == []


def test_the_doorbell_names_nobody(landed: Flight) -> None:
    rung = landed.doorbell()
    assert "aforo.drain" in rung
    assert marks_in(rung) == []


def test_redis_knows_nobody_once_all_is_applied(landed: Flight) -> None:
    everything = list(everything_in(landed.redis))
    assert len(everything) > 20
    assert [marks for one in everything if (marks := marks_in(one))] == []
    assert landed.redis.config_get("slowlog-log-slower-than") == {"slowlog-log-slower-than": "-1"}


def test_metrics_name_nobody(landed: Flight) -> None:
    text = landed.api.get("/metrics").text
    files = b" ".join(path.read_bytes() for path in landed.metrics_folder.iterdir()).decode("latin-1")
    assert "aforo_accepted_total" in text
    assert "aforo_accepted_total" in files
    assert marks_in(text + files) == []


def test_no_log_names_anybody(landed: Flight) -> None:
    """The last one: everything has been logged by now."""
    stack, servers = landed.stack, landed.servers
    logs = {one.program.name: one.output() for one in (stack.api, stack.worker, stack.sweeper, servers.postgres, servers.valkey)}
    assert {name: marks for name, log in logs.items() if (marks := marks_in(log))} == {}
    assert [name for name, log in logs.items() if len(log) < 100] == []
    for name, words in SHOWN.items():
        assert [word for word in words if word not in logs[name]] == [], name


# What has been logged of all this, so that it is known that there was something to hide.
SHOWN: dict[str, Iterable[str]] = {
    "api": ("/api/jobs/{job}", "UndefinedColumn"),
    "worker": ("no_such_name", "SIGKILL"),
    "sweeper": ("no_such_name",),
    "postgres": ("permission denied", "no_such_name"),
}
