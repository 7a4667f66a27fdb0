"""A client for tests: makes sessions, reserves, cancels, and keeps httpx's answers."""

from __future__ import annotations

import itertools
from typing import Any

import httpx

_people = itertools.count(1)  # `aforo demo` and tests/bench have guests of their own, whom they count as well

SESSION: dict[str, Any] = {
    "title": "Letterpress for beginners",
    "start_time": "2031-05-01T18:00:00+02:00",
    "end_time": "2031-05-01T20:00:00+02:00",
    "capacity": 3,
}


def person(name: str | None = None) -> dict[str, str]:
    """Somebody whom no other test of this process has met; or the same person each time, by name."""
    name = name or f"somebody-{next(_people)}"
    return {"name": name.title(), "email": f"{name}@example.org"}


class Api(httpx.Client):
    """Calls one stack. Answers are httpx's; nothing is raised for their status."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=40)

    def new_session(self, **fields: Any) -> int:
        """Create a session. Its id."""
        answer = self.post("/api/sessions/", json={**SESSION, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def reserve(self, session: int, who: dict[str, Any] | None = None, wait: int | None = 20, **headers: str) -> httpx.Response:
        """Reserve, and wait for the outcome unless `wait` is None."""
        return self._command(session, "reserve", who or person(), wait, headers)

    def cancel(self, session: int, email: str, wait: int | None = 20, seats: int | None = None, **headers: str) -> httpx.Response:
        """Cancel, and wait for the outcome unless `wait` is None."""
        body = {"email": email} if seats is None else {"email": email, "seats": seats}
        return self._command(session, "cancel", body, wait, headers)

    def turn(self, session: int, kind: str) -> httpx.Response:
        """close, reopen or cancel-session, and wait for the outcome."""
        return self._command(session, kind, {}, 20, {})

    def configure(self, session: int, **settings: Any) -> httpx.Response:
        """Change settings, and wait for the outcome."""
        return self.patch(f"/api/sessions/{session}/", json=settings, headers={"Prefer": "wait=20"})

    def job(self, job_id: str, **headers: str) -> dict[str, Any]:
        """A job."""
        answer = self.get(f"/api/jobs/{job_id}", headers=named(headers))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def free(self, session: int) -> int:
        """How many places a session has free."""
        return self.get(f"/api/sessions/{session}/").json()["available_slots"]

    def _command(
        self, session: int, kind: str, body: dict[str, Any], wait: int | None, headers: dict[str, str]
    ) -> httpx.Response:
        prefer = {} if wait is None else {"Prefer": f"wait={wait}"}
        return self.post(f"/api/sessions/{session}/{kind}/", json=body, headers={**prefer, **named(headers)})


def named(headers: dict[str, str]) -> dict[str, str]:
    """Header names as Python can write them: _ stands for -."""
    return {name.replace("_", "-"): value for name, value in headers.items()}
