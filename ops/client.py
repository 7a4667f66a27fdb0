"""A small client of Aforo's HTTP API, for the command line. Standard library only; one connection a call."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

TIMEOUT_SECONDS = 40.0  # longer than the longest `Prefer: wait`


def key_from_environment() -> str | None:
    """The key to call with, where the API asks for one."""
    return os.environ.get("AFORO_KEY") or os.environ.get("AFORO_FIRST_KEY") or None


class NoAnswer(Exception):
    """The API cannot be reached; the message says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON body of an answer, whether it is a success or a problem."""

    status: int
    body: dict[str, Any]

    @property
    def job(self) -> dict[str, Any] | None:
        """The job in it: the body itself, or beside a refusal."""
        found = self.body if "outcome" in self.body else self.body.get("job")
        return found if isinstance(found, dict) else None


class Client:
    """Calls one API by its origin, such as http://127.0.0.1:8000, with a key where it asks for one."""

    def __init__(self, origin: str, key: str | None = None) -> None:
        self.origin = origin.rstrip("/")
        self.authorization = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> Answer:
        """GET. Raises NoAnswer."""
        return self._call("GET", path, None, {})

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Answer:
        """POST as JSON; header names with _ for -. Raises NoAnswer."""
        return self.send("POST", path, body, **headers)

    def send(self, method: str, path: str, body: dict[str, Any], **headers: str) -> Answer:
        """Send JSON by any method; header names with _ for -. Raises NoAnswer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._call(method, path, json.dumps(body).encode(), {"Content-Type": "application/json", **named})

    def text(self, path: str) -> str:
        """GET something that is not JSON. Raises NoAnswer."""
        try:
            request = urllib.request.Request(self.origin + path, headers=self.authorization)
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.read().decode("utf-8", "replace")
        except (OSError, ValueError, http.client.HTTPException) as exc:
            raise NoAnswer(f"{self.origin}{path} does not answer: {exc}") from exc

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        url, given = self.origin + path, {"Accept": "application/json", **self.authorization, **headers}
        try:
            request = urllib.request.Request(url, body, given, method=method)
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                return Answer(answer.status, _object(answer.read(), url))
        except urllib.error.HTTPError as exc:
            with exc:
                return Answer(exc.code, _object(exc.read(), url))
        except (ValueError, http.client.InvalidURL) as exc:
            raise NoAnswer(f"This cannot be sent to {self.origin}: {exc}.") from exc
        except (OSError, http.client.HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            raise NoAnswer(f"No Aforo answers at {self.origin}: {reason}. Is `aforo up` running?") from exc


def _object(body: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NoAnswer(f"What answers at {url} is not Aforo.")
    return found
