"""Errors as pages, for whoever was looking at one."""

from __future__ import annotations

import re
from typing import Final

import falcon.asgi

from api import messages
from api.pages.booking import page, trouble
from api.pages.markup import HEADERS
from api.pages.words import say

PAGES: Final = "/s/"
OF_SESSION: Final = re.compile(r"/s/([0-9]{1,18})(?:/|$)", re.ASCII)
NOT_THERE: Final = ("session_not_found", "job_not_found", "reservation_not_found", "not_found")


def is_page(req: falcon.asgi.Request) -> bool:
    """Whether a request is for a page, and not for what a script or a calendar reads."""
    return req.path.startswith(PAGES) and not req.path.endswith("/events")


def spoken(req: falcon.asgi.Request) -> str:
    """The language of a page: as its address says, else as the browser prefers."""
    asked = req.get_param("lang")
    return asked if asked in messages.LANGUAGES else messages.language(req)


def show(req: falcon.asgi.Request, resp: falcon.asgi.Response, status: int, code: str, detail: str) -> None:
    """Answer with a page that says what is the matter; `detail` is in the language that the browser prefers."""
    language = spoken(req)
    is_gone = code in NOT_THERE
    title = say("gone_title" if is_gone else "trouble_title", language)
    session = OF_SESSION.match(req.path)
    is_own = code in ("job_not_found", "reservation_not_found")
    text = say("gone_own" if is_own else "gone", language) if is_gone else detail
    main = trouble(title, text, language, session[1] if session and (is_own or not is_gone) else None)
    send(resp, page(title, main, language, lambda other: f"{req.path}?lang={other}"), language, status)


def send(resp: falcon.asgi.Response, body: bytes, language: str, status: int = 200) -> None:
    """Answer with a page, which no cache keeps: it shows what is now, and perhaps to whom."""
    resp.status = status
    resp.content_type = "text/html; charset=utf-8"
    resp.set_headers(dict(HEADERS))
    resp.set_header("Cache-Control", "private, no-store")
    resp.set_header("Content-Language", language)
    resp.append_header("Vary", "Accept-Language")
    resp.data = body
