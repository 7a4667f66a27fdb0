"""People who reserve from several threads at once, each repeating under a key what was not accepted, and what they were told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx

from tests.support.http import Api
from tests.support.stack import Stack
from tests.support.waiting import until

AGAIN_SECONDS = 0.05


class Crowd:
    """`accepted`: for each job its session, seq and key, as its 202 said; `refused`: statuses and codes of all other answers."""

    def __init__(self, stack: Stack, sessions: Sequence[int], threads: int) -> None:
        self._stack = stack
        self._sessions = sessions
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)]
        self.accepted: dict[str, tuple[int, int, str]] = {}
        self.refused: dict[tuple[int, str], int] = {}
        self.retry_after = True  # whether each 503 said when to come again

    @property
    def count(self) -> int:
        """How many were accepted so far."""
        return len(self.accepted)

    def more(self, count: int, seconds: float = 30) -> None:
        """Wait until so many more are accepted."""
        wanted = self.count + count
        until(lambda: self.count >= wanted, seconds, f"{count} more are accepted; refused so far: {self.refused}")

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Stop, everybody after the request under way is accepted."""
        self._leaving.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), f"somebody is never accepted; refused so far: {self.refused}"

    def _run(self, number: int) -> None:
        with Api(self._stack.url) as api:
            turn = 0
            while not self._leaving.is_set():
                turn += 1
                self._reserve(api, self._sessions[(turn + number) % len(self._sessions)], f"guest-{number}-{turn}")

    def _reserve(self, api: Api, session: int, name: str) -> None:
        who = {"name": name, "email": f"{name}@example.org"}
        until_ = time.monotonic() + 60
        while time.monotonic() < until_:
            try:
                answer = api.reserve(session, who, wait=None, Idempotency_Key=f"key-{name}")
            except httpx.HTTPError:
                time.sleep(AGAIN_SECONDS)
                continue
            if answer.status_code == 202:
                job = answer.json()
                with self._lock:
                    self.accepted[job["id"]] = (session, job["seq"], f"key-{name}")
                return
            assert answer.status_code >= 429, answer.text
            with self._lock:
                code = (answer.status_code, answer.json().get("code", ""))
                self.refused[code] = self.refused.get(code, 0) + 1
                self.retry_after &= answer.status_code != 503 or "retry-after" in answer.headers
            time.sleep(AGAIN_SECONDS)
        raise AssertionError(f"{name} is never accepted")

    def check(self) -> None:
        """After all are gone: what was accepted is applied once, as the number that its 202 said, and no number is missing."""
        sql = self._stack.deployment.sql
        until(lambda: self._applied() >= set(self.accepted), 30, "everything accepted is applied")
        rows = {job: (session, seq) for job, session, seq in sql("SELECT id::text, session_id, seq FROM jobs WHERE seq > 0")}
        assert {job: rows[job] for job in self.accepted} == {job: told[:2] for job, told in self.accepted.items()}
        numbers = sql("SELECT session_id, count(*), max(seq) FROM jobs WHERE seq > 0 GROUP BY 1")
        assert [row for row in numbers if row[1] != row[2]] == []
        assert sql("SELECT kind FROM jobs WHERE outcome <> 'confirmed' AND seq > 0") == []
        assert sql("SELECT kind, detail FROM incidents") == []

    def _applied(self) -> set[str]:
        return {job for (job,) in self._stack.deployment.sql("SELECT id::text FROM jobs")}


@contextmanager
def crowd(stack: Stack, sessions: Sequence[int], threads: int = 4) -> Iterator[Crowd]:
    """They come while the context lasts, and all are gone after it."""
    found = Crowd(stack, sessions, threads)
    found.start()
    try:
        yield found
    finally:
        found.leave()
