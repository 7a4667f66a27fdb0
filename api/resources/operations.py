"""For operators: how things go over all processes, now and as a stream; and what was set aside, with a way to send it again."""

from __future__ import annotations

from typing import Any

import falcon.asgi
import msgspec

from api.answers import MASKED_EMAIL, MASKED_NAME, job_answer, when, when_ms
from api.bodies import read_nothing
from api.messages import language
from api.requests import job_id, number
from api.resources.commands import Commands
from api.streams import Event, digest, open_stream
from core.bootstrap import ApiServices
from core.errors import UnknownJob
from core.keys import ATTENDEES, MANAGE
from core.model import ARGUMENTS_OF, FORGOTTEN, people_of
from core.operations import Overview, Point
from core.queries import QuarantinedView

QUARANTINE_SHOWN = 50
AGAIN = "again-{}"  # the idempotency key of what is sent again: once, however often it is asked for
MASKED = {"name": MASKED_NAME, "email": MASKED_EMAIL, "email_key": MASKED_EMAIL}


class OperationsItem:
    """GET /api/operations/"""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """How things are now, and how they were in the last minutes."""
        operations = self._services.operations
        points = await operations.history()
        resp.data = msgspec.json.encode({**overview_answer(await operations.overview()), "history": [_point(p) for p in points]})


class OperationsEvents:
    """GET /api/operations/events"""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """How things are, every second or two."""
        open_stream(self._services, req, resp, self._services.streams.operations, "now", event_of)


def event_of(overview: Overview) -> Event:
    """What the stream tells."""
    data = msgspec.json.encode(overview_answer(overview))
    return Event("operations", digest(data), data)


def overview_answer(overview: Overview) -> dict[str, Any]:
    """The overview as operators see it."""
    verified = overview.verified
    return {
        "now": _point(overview.now),
        "partitions": overview.partitions,
        "processes": [
            {
                "name": process.name,
                "kind": process.kind,
                "since": when_ms(process.since),
                "last_sign_of_life": when_ms(process.last_sign),
                "silent_seconds": round(process.silent_seconds, 1),
                "late": process.late,
            }
            for process in overview.processes
        ],
        "outcomes": overview.outcomes,
        "verified": verified and {**msgspec.structs.asdict(verified), "at": when_ms(verified.at)},
    }


def _point(point: Point) -> dict[str, Any]:
    return {**msgspec.structs.asdict(point), "at": when_ms(point.at)}


class QuarantineCollection:
    """GET /api/quarantine/"""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The newest commands that were set aside, and mailbox entries that were no commands."""
        services, limit = self._services, number(req, "page_size", QUARANTINE_SHOWN, 100)
        commands = await services.in_thread(services.queries.quarantined, limit)
        entries = await services.in_thread(services.queries.unreadable, limit)
        jobs = await services.jobs.all([again_id(services, command) for command in commands])
        masked = not req.context.caller.may(ATTENDEES, MANAGE)
        shown = [
            {
                "job": command.job_id,
                "session": command.session_id,
                "seq": command.seq,
                "kind": command.kind,
                "client": command.client,
                "arguments": _masked(command.arguments) if masked else command.arguments,
                "accepted_at": when(command.accepted_at),
                "set_aside_at": when(command.applied_at),
                "sent_again": None if job is None else {"job": job.id, "outcome": job.outcome},
            }
            for command, job in zip(commands, jobs, strict=True)
        ]
        unreadable = [
            {"partition": one.partition, "entry": one.stream_id, "set_aside_at": when(one.noticed_at)} for one in entries
        ]
        resp.set_header("Cache-Control", "private, no-store")
        resp.data = msgspec.json.encode({"commands": shown, "unreadable": unreadable})


class QuarantineAgain(Commands):
    """POST /api/quarantine/{job}/again"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, job: str) -> None:
        """Send what was set aside again, as a new command of the same client; once, however often this is asked for."""
        await read_nothing(req)
        services = self._services
        found = await services.in_thread(services.queries.quarantined_job, job_id(job))
        shape = ARGUMENTS_OF.get(found.kind) if found is not None else None
        if found is None or shape is None:
            raise UnknownJob
        arguments = msgspec.convert(found.arguments, shape)
        if any(person.startswith(f"{FORGOTTEN}-") for person in people_of(arguments)):  # who they were is not known any more
            raise UnknownJob
        key = AGAIN.format(found.job_id)
        draft = services.submit.draft(found.kind, found.session_id, arguments, found.client, key)
        receipt = await services.submit(draft, arguments, keyed=True)
        req.context.job_id = receipt.job.id
        resp.status = 202
        resp.data = msgspec.json.encode(job_answer(receipt.job, services.manage_token, language(req)))


def again_id(services: ApiServices, command: QuarantinedView) -> str:
    """The job that a command is, or would be, when it is sent again."""
    return services.submit.job_id(command.kind, command.session_id, command.client, AGAIN.format(command.job_id))


def _masked(arguments: Any) -> Any:
    """Arguments without saying who it is about."""
    if isinstance(arguments, dict):
        return {name: MASKED[name] if name in MASKED else _masked(value) for name, value in arguments.items()}
    return [_masked(one) for one in arguments] if isinstance(arguments, list) else arguments


def routes(services: ApiServices) -> list[tuple[str, Any]]:
    """Paths and their resources."""
    return [
        ("/api/operations", OperationsItem(services)),
        ("/api/operations/events", OperationsEvents(services)),
        ("/api/quarantine", QuarantineCollection(services)),
        ("/api/quarantine/{job}/again", QuarantineAgain(services)),
    ]
