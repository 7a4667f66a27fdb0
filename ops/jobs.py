"""`aforo job`, and what all commands share that ask the API for something: they send it, and show its job."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ops.client import Answer, Client
from ops.shell import DATA_DIR, Api, AsJson, DataDir, Failure, client_of, out, plainly

WAITING = {"Prefer": "wait=30"}
SUCCESSES = (
    "confirmed", "waitlisted", "cancelled", "reduced", "resized", "configured", "session_closed", "session_reopened",
)  # fmt: skip


@plainly
def job(
    job_id: Annotated[str, typer.Argument(help="Id of the job.")],
    as_json: AsJson = False,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Show what became of a request."""
    _show_job(good(client_of(api, data_dir).get(f"/api/jobs/{quote(job_id, safe='')}")), as_json)


def good(answer: Answer) -> dict[str, Any]:
    """The body of an answer that is no error. Raises Failure that says what is wrong, field by field."""
    if answer.status < 400:
        return answer.body
    lines = [answer.body.get("detail") or f"The API answered {answer.status}."]
    wrong = [(one["field"], one["message"]) for one in answer.body.get("errors", [])]
    lines += [f"  {field}: {message}" if field else f"  {message}" for field, message in wrong]
    raise Failure("\n".join(lines))


def send(client: Client, session: int, kind: str, body: dict[str, Any], wait: bool, key: str | None, as_json: bool) -> None:
    """POST a session's command and show its job; see show_answer. `key`: its idempotency key. Raises Failure."""
    headers = dict(WAITING) if wait else {}
    if key is not None:
        headers["Idempotency_Key"] = key
    show_answer(client.post(f"/api/sessions/{session}/{kind}/", body, **headers), as_json)


def show_answer(answer: Answer, as_json: bool) -> None:
    """Show the job of an answer; exit status 1 where it is a refusal. Raises Failure."""
    found = answer.job
    if found is None:
        good(answer)
        raise Failure(f"The API answered {answer.status} without a job.")
    _show_job(found, as_json)
    if found["outcome"] not in (None, *SUCCESSES):
        raise typer.Exit(1)


def _show_job(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    if found["outcome"] is None:
        ahead = f", {found['ahead']} ahead" if found.get("ahead") is not None else ""
        out.print(f"queued as number {found['seq']} of session {found['session_id']}{ahead}; job {found['id']}")
        return
    held = found.get("reservation")
    reservation = f", reservation {held['id']}" if held else ""
    if held and held["status"] == "waitlisted":
        reservation += f", place {held['position']} in the waitlist"
    out.print(f"{found['outcome']}: number {found['seq']} of session {found['session_id']}{reservation}; job {found['id']}")
