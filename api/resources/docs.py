"""The contract and the page that shows it: openapi.yaml, and the vendored Swagger UI on it, which works offline; and the files
that other pages load."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi

from api.browsers import PAGE
from api.messages import NO_FILE

ROOT = Path(__file__).resolve().parents[2]
STATIC = Path(__file__).resolve().parents[1] / "static"

# All that is served, and nothing else: a path is looked up here and never on disk.
DOCS = {
    "docs.js": (STATIC, "text/javascript; charset=utf-8"),
    "swagger-ui-bundle.js": (STATIC / "swagger-ui", "text/javascript; charset=utf-8"),
    "swagger-ui.css": (STATIC / "swagger-ui", "text/css; charset=utf-8"),
    "favicon-32x32.png": (STATIC / "swagger-ui", "image/png"),
}
SHARED = {
    "aforo.css": (STATIC, "text/css; charset=utf-8"),
    "aforo.svg": (STATIC, "image/svg+xml"),
    "booking.js": (STATIC, "text/javascript; charset=utf-8"),
}


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is served: read once, at the start."""

    content: bytes
    content_type: str
    etag: str


def read(path: Path, content_type: str) -> File:
    """Read a file that is served. Raises FileNotFoundError, which stops the start."""
    content = path.read_bytes()
    return File(content, content_type, hashlib.blake2b(content, digest_size=12).hexdigest())


class Served:
    """One file at one path."""

    def __init__(self, file: File, headers: Mapping[str, str] | None = None) -> None:
        self._file = file
        self._headers = dict(headers or {})

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The file, or 304 to whoever has it already."""
        send(req, resp, self._file)
        resp.set_headers(self._headers)


class Assets:
    """GET /api/docs/{name} and /static/{name}: what pages load."""

    def __init__(self, files: Mapping[str, tuple[Path, str]]) -> None:
        self._files = {name: read(folder / name, content_type) for name, (folder, content_type) in files.items()}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
        """One of the files."""
        file = self._files.get(name)
        if file is None:
            raise falcon.HTTPNotFound(description=NO_FILE)
        send(req, resp, file)


class ToDocs:
    """GET / and /docs/"""

    async def on_get(self, _req: falcon.asgi.Request, _resp: falcon.asgi.Response) -> None:
        """Where it is."""
        raise falcon.HTTPFound("/api/docs/")


def send(req: falcon.asgi.Request, resp: falcon.asgi.Response, file: File) -> None:
    """Answer with a file; the browser asks each time, and gets it only when it has changed."""
    resp.etag = file.etag
    resp.set_header("Cache-Control", "no-cache")
    if any(etag in ("*", file.etag) for etag in req.if_none_match or ()):
        resp.status = 304
        return
    resp.content_type = file.content_type
    resp.data = file.content


def routes() -> list[tuple[str, Any]]:
    """Paths and their resources."""
    page = Served(read(STATIC / "docs.html", "text/html; charset=utf-8"), PAGE)
    schema = Served(read(ROOT / "openapi.yaml", "application/yaml"))
    return [
        ("/api/docs", page),
        ("/api/docs/{name}", Assets(DOCS)),
        ("/api/schema", schema),
        ("/", ToDocs()),
        ("/docs", ToDocs()),
        ("/static/{name}", Assets(SHARED)),
    ]
