"""What every answer must be, whatever was sent: HTTP/1.1 with its length, never a 5xx but for a 503 that says when to come again,
without traceback, banner or injected header, and with the body that openapi.yaml writes for this path, method and status; where
it writes nothing, a problem.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import jsonschema
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.support.hostile import Request
from tests.support.raw import Raw

SPEC = yaml.safe_load((Path(__file__).resolve().parents[2] / "openapi.yaml").read_text("utf-8"))
REGISTRY = Registry().with_resource("", Resource.from_contents(SPEC, default_specification=DRAFT202012))
RESOLVER = REGISTRY.resolver("")
PROBLEM = {"$ref": "#/components/schemas/Problem"}

# What may be answered before there is a request for the application, or where it has no such path or method.
ANYWHERE = {400, 401, 403, 404, 405, 408, 413, 414, 415, 422, 429, 431, 503}
ANSWER_SECONDS = 20


@dataclass(frozen=True)
class Got:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(url: str, request: Request) -> list[Got]:
    """Send it, and read until the other side closes or has answered."""
    with Raw(url) as raw:
        raw.socket.settimeout(ANSWER_SECONDS)
        received = b""
        try:
            raw.send(request.sent)
            while True:
                answers = list(answers_in(received, request.method))
                if answers and request.is_whole:
                    return answers
                data = raw.socket.recv(65536)
                if not data:
                    return answers
                received += data
        except (ConnectionError, TimeoutError):
            return list(answers_in(received, request.method))


def answers_in(received: bytes, method: bytes) -> Iterator[Got]:
    """The whole answers among these bytes. Raises AssertionError for what is none."""
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*", first)
        assert match, f"no answer of HTTP: {first!r}"
        pairs = [line.split(": ", 1) for line in lines]
        assert all(len(pair) == 2 for pair in pairs), f"no headers: {lines}"
        headers = {name.lower(): value for name, value in pairs}
        status = int(match[1])
        if status == 100:
            received = rest
            continue
        bare = method == b"HEAD" or status in (204, 304)
        body, received = _body(headers, rest, bare)
        if body is None:
            return
        yield Got(status, headers, body)


def _body(headers: dict[str, str], rest: bytes, bare: bool) -> tuple[bytes | None, bytes]:
    if bare:
        return b"", rest
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while True:
            size, end, after = rest.partition(b"\r\n")
            if not end:
                return None, b""
            length = int(size, 16)
            if len(after) < length + 2:
                return None, b""
            body, rest = body + after[:length], after[length + 2 :]
            if length == 0:
                return body, rest
    length = int(headers.get("content-length", "0"))
    return (rest[:length], rest[length:]) if len(rest) >= length else (None, b"")


def faults_of(request: Request, answers: list[Got]) -> list[str]:
    """What is wrong with the answers to a request."""
    found = [fault for answer in answers for fault in _faults(answer)]
    if request.is_whole and not answers:
        found.append("no answer")
    if answers and request.is_whole:
        found += _not_as_written(request, answers[0])
    return found


def _faults(answer: Got) -> Iterator[str]:
    if answer.status >= 500 and not (answer.status == 503 and "retry-after" in answer.headers):
        yield f"a server error: {answer.status} {answer.body[:200]!r}"
    if b"Traceback" in answer.body or b'File "' in answer.body:
        yield f"a traceback: {answer.body[:200]!r}"
    if "server" in answer.headers or "x-powered-by" in answer.headers or "x-injected" in answer.headers:
        yield f"a header that must not be there: {answer.headers}"
    if answer.status >= 400 and answer.body and answer.headers.get("content-type") != "application/problem+json":
        yield f"no problem+json: {answer.status} {answer.headers.get('content-type')} {answer.body[:100]!r}"
    elif answer.status >= 400 and answer.body:
        yield from _unfit(PROBLEM, answer)
        if b'"status":%d,' % answer.status not in answer.body:
            yield f"its status is not {answer.status}: {answer.body[:100]!r}"


def _not_as_written(request: Request, answer: Got) -> Iterator[str]:
    operation = operation_of(request)
    if operation is None:
        if answer.status >= 500 or answer.status not in {*ANYWHERE, 200, 302}:
            yield f"{answer.status} where nothing is written"
        return
    written = operation["responses"].get(str(answer.status))
    if written is None:
        if answer.status not in ANYWHERE:
            yield f"{answer.status} is not written"
        return
    content = resolved(written).get("content", {})
    media = answer.headers.get("content-type", "").partition(";")[0]
    if answer.body and content and media not in content:
        yield f"{media} is not written"
    elif answer.body and media.endswith("json"):
        yield from _unfit(content[media]["schema"], answer)


def operation_of(request: Request) -> dict[str, Any] | None:
    """What openapi.yaml has of this path and method, if it has."""
    path = unquote_to_bytes(re.split(rb"[?#]", request.target)[0]).decode("latin-1")
    for template, item in SPEC["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template.rstrip("/") or "/"))
        method = request.method.decode("latin-1").replace("HEAD", "GET")
        if re.fullmatch(f"{pattern}/?", path) and method.isupper() and method.lower() in item:
            return item[method.lower()]
    return None


def _unfit(schema: dict[str, Any], answer: Got) -> Iterator[str]:
    try:
        content = json.loads(answer.body)
    except ValueError:
        yield f"{answer.status} is no JSON: {answer.body[:100]!r}"
        return
    validator = jsonschema.Draft202012Validator(schema, registry=REGISTRY, _resolver=RESOLVER)
    for error in validator.iter_errors(content):
        yield f"{answer.status} is not as written: {error.message[:200]}"


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    while "$ref" in node:
        found: Any = SPEC
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def is_healthy(url: str) -> bool:
    """Whether somebody else is served as if nothing had happened."""
    with Raw(url) as raw:
        raw.send(b"GET /healthz HTTP/1.1\r\nHost: aforo\r\nConnection: close\r\n\r\n")
        return raw.answer().status == 200
