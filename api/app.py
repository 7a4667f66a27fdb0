"""The application: routes and middleware around the services. `create_app_from_environment` is what gunicorn calls."""

from __future__ import annotations

import logging
import time
from typing import Any

import falcon.asgi

from api import errors
from api.access import Access
from api.ahead import Ahead
from api.browsers import Cors
from api.gate import Gate
from api.intake import Intake
from api.kept import Kept
from api.limits import Limit
from api.middleware import Observe
from api.resources import booking, commands, console, docs, operations
from api.resources.batches import BatchCollection, BatchItem
from api.resources.health import Alive, Metrics, Ready
from api.resources.jobs import JobEvents, JobItem
from api.resources.reservations import ReservationCalendar, ReservationCollection, ReservationItem
from api.resources.sessions import SessionCollection, SessionEvents, SessionItem, SessionReservations
from core.bootstrap import ApiServices, prepare
from core.errors import Unavailable

log = logging.getLogger(__name__)

BOOT_SECONDS = 30
BOOT_RETRY_SECONDS = 0.5


STREAMS = ("/events", "/events/")


class App(falcon.asgi.App):
    """Falcon's, but for reads that are answered ahead of it, and for HEAD: that is a GET of which the server sends only the head,
    so a stream, which has no end, has none either."""

    ahead: Ahead

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Called by the server, for each request."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and not scope["path"].endswith(STREAMS):
            await super().__call__({**scope, "method": "GET"}, receive, send)
        elif scope["type"] != "http" or scope["method"] != "GET" or not await self.ahead.answers(scope, send):
            await super().__call__(scope, receive, send)


def create_app(services: ApiServices) -> falcon.asgi.App:
    """The ASGI application on the given services. Does no I/O but reading its own static files."""
    settings, pages, observe = services.settings, Kept(services), Observe(services)
    middleware: list[Any] = [observe, Access(services)]
    if settings.rate_per_key or settings.rate_per_address:
        middleware.append(Limit(services))
    middleware.append(Intake(services, observe))
    if settings.cors_origins:
        middleware.insert(0, Cors(settings.cors_origins))
    app = App(media_type="application/json", middleware=middleware)
    app.ahead = Ahead(services, pages, observe)
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    app.add_route("/api/sessions", SessionCollection(services, pages))
    app.add_route("/api/sessions/{session}", SessionItem(services, pages))
    app.add_route("/api/sessions/{session}/events", SessionEvents(services))
    app.add_route("/api/sessions/{session}/reservations", SessionReservations(services))
    app.add_route("/api/jobs/{job}", JobItem(services))
    app.add_route("/api/jobs/{job}/events", JobEvents(services))
    app.add_route("/api/batches", BatchCollection(services))
    app.add_route("/api/batches/{batch}", BatchItem(services))
    app.add_route("/api/reservations", ReservationCollection(services))
    app.add_route("/api/reservations/{reservation}", ReservationItem(services))
    app.add_route("/api/reservations/{reservation}.ics", ReservationCalendar(services))
    app.add_route("/healthz", Alive())
    app.add_route("/readyz", Ready(services))
    app.add_route("/metrics", Metrics(services))
    for path, resource in (
        *commands.routes(services),
        *operations.routes(services),
        *console.routes(services),
        *booking.routes(services),
        *docs.routes(),
    ):
        app.add_route(path, resource)
    return app


def create_app_from_environment() -> Gate:
    """What a server process runs. Waits a while for Postgres; raises core.errors when the environment cannot be used."""
    settings = prepare("api")
    deadline = time.monotonic() + BOOT_SECONDS
    while True:
        try:
            services = ApiServices(settings)
            return Gate(create_app(services), services.door)
        except Unavailable as exc:
            if time.monotonic() > deadline:
                raise
            log.warning("waiting_for_postgres", extra={"reason": str(exc)})
            time.sleep(BOOT_RETRY_SECONDS)
