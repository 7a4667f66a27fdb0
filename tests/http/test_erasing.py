"""What clients see of people who were forgotten and of sessions that were pruned, while workers run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from core.errors import StillLive
from ops import verify
from tests.support.erasing import forget, prune, rows_with
from tests.support.http import Api, person
from tests.support.stack import Stack


def end(api: Api, session: int, days: int) -> None:
    """Move a session so that it ended that long ago."""
    over = datetime.now(UTC) - timedelta(days=days)
    answer = api.configure(session, start_time=(over - timedelta(hours=1)).isoformat(), end_time=over.isoformat())
    assert answer.json()["outcome"] == "configured"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_whoever_was_forgotten_has_neither_name_nor_address_any_more(live_api: Stack, api: Api) -> None:
    session, ana = api.new_session(), person()
    job = api.reserve(session, ana).json()
    held = job["reservation"]
    end(api, session, days=1)
    before = api.get(f"/api/sessions/{session}/")
    forget(live_api.deployment, ana["email"].partition("@")[0])
    after = api.get(f"/api/sessions/{session}/", headers={"If-None-Match": before.headers["ETag"]})
    assert (after.status_code, after.json()["version"]) == (200, before.json()["version"] + 1)
    own = api.get(f"/api/reservations/{held['id']}", headers=bearer(held["manage_token"])).json()
    for shown in (*after.json()["reservations"], own):
        assert (shown["name"], shown["email"][:10], shown["status"]) == ("forgotten", "forgotten-", "confirmed")
    assert api.job(job["id"]) == job
    gone = api.delete(f"/api/reservations/{held['id']}", headers={**bearer(held["manage_token"]), "Prefer": "wait=20"})
    assert (gone.status_code, gone.json()["code"]) == (409, "started")


def test_forgetting_somebody_who_comes_and_goes_all_the_time(live_api: Stack, api: Api) -> None:
    session, ana = api.new_session(capacity=5), person()
    name = ana["email"].partition("@")[0]
    with coming_and_going(live_api, session, ana):
        for _ in range(4):
            try:
                forget(live_api.deployment, name, cancel=True)
            except StillLive:
                continue  # there again, three times in a row
    forget(live_api.deployment, name, cancel=True)
    assert rows_with(live_api.deployment, ana["email"]) == 0
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []


@contextmanager
def coming_and_going(stack: Stack, session: int, who: dict[str, str]) -> Iterator[None]:
    """Reserve and cancel from two clients at once, a bounded number of times, until the block ends."""
    stop = threading.Event()

    def come_and_go() -> None:
        with Api(stack.url) as client:
            for _ in range(500):
                if stop.is_set():
                    return
                assert client.reserve(session, who).status_code in (201, 409)
                assert client.cancel(session, who["email"]).status_code in (200, 404)

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_a_pruned_session_is_nowhere(live_api: Stack, api: Api) -> None:
    session, stays = api.new_session(), api.new_session()
    job = api.reserve(session).json()
    held = job["reservation"]
    body = {"commands": [{"session": session, "kind": "reserve", **person()}]}
    batch = api.post("/api/batches/", json=body, headers={"Idempotency-Key": f"pruned-{session}", "Prefer": "wait=20"}).json()
    end(api, session, days=100)
    assert prune(live_api.deployment).sessions
    for path in (
        f"sessions/{session}/",
        f"sessions/{session}/reservations/",
        f"sessions/{session}/?min_seq=1",
        f"jobs/{job['id']}",
    ):
        assert api.get(f"/api/{path}").status_code == 404, path
    for path in (f"reservations/{held['id']}", f"reservations/{held['id']}.ics"):
        assert api.get(f"/api/{path}", headers=bearer(held["manage_token"])).status_code == 404, path
    assert api.reserve(session).json()["code"] == "session_not_found"
    assert api.patch(f"/api/sessions/{session}/", json={"title": "Too late"}).status_code == 404
    assert api.get(f"/api/batches/{batch['id']}").json()["jobs"] == [None]
    listed = [found["id"] for found in api.get("/api/sessions/?available=all&ordering=-id&page_size=100").json()["results"]]
    assert (session in listed, stays in listed) == (False, True)
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []
