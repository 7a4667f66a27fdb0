"""Signing in to the console: a cookie that stands for a key, and what a change has to say beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import pytest

from core.keys import new_token
from ops import keys
from tests.support.http import SESSION, Api
from tests.support.stack import Stack
from tests.support.waiting import until

Key = Callable[..., str]


@pytest.fixture(scope="module")
def guarded(module_stacks: Callable[..., Stack]) -> Stack:
    """A stack that asks for keys."""
    return module_stacks(first_key=new_token(), auth="keys")


@pytest.fixture
def key(guarded: Stack) -> Key:
    """Makes keys with these scopes."""
    settings = guarded.deployment.settings(owner_url=guarded.deployment.owner_url)
    return lambda *scopes: keys.create(settings, "desk", list(scopes), None)[0]


@pytest.fixture
def browser(guarded: Stack) -> Iterator[Api]:
    """What keeps cookies as browsers do."""
    with Api(guarded.url) as api:
        yield api


def signed_in(browser: Api, token: str) -> dict[str, str]:
    """Sign in; what changes have to say from then on."""
    answer = browser.post("/console/session", json={"key": token})
    assert answer.status_code == 200, answer.text
    return {"X-CSRF-Token": answer.json()["csrf_token"]}


def test_the_cookie_is_for_this_site_only_and_no_script_reads_it(browser: Api, key: Key, guarded: Stack) -> None:
    token = key("operate", "read")
    answer = browser.post("/console/session", json={"key": f" {token} "})
    assert {name: answer.json()[name] for name in ("client", "scopes", "open")} == {
        "client": "desk",
        "scopes": ["read", "operate"],
        "open": False,
    }
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie  # loopback, without TLS
    value = browser.cookies["aforo_console"]
    with guarded.deployment.redis() as redis:
        kept = {name: redis.get(name) for name in redis.scan_iter("aforo:*:console:*")}
    assert kept
    assert value not in str(kept)
    assert token.split("_")[2] not in str(kept)
    assert browser.get("/console/session").json() == answer.json()


def test_it_opens_what_the_keys_scopes_open_and_nothing_else(browser: Api, key: Key) -> None:
    assert browser.get("/console/session").json()["client"] is None
    says = signed_in(browser, key("operate", "read"))
    assert browser.get("/api/operations/").status_code == 200
    assert browser.get("/api/sessions/").status_code == 200
    assert browser.post("/api/sessions/", json=SESSION, headers=says).json()["code"] == "scope_missing"
    assert browser.get("/api/reservations/", params={"email": "a@b.org"}).json()["code"] == "scope_missing"


def test_a_change_has_to_say_that_it_comes_from_the_page(browser: Api, key: Key) -> None:
    says = signed_in(browser, key("operate", "manage"))
    for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "0" * 32}, {"X-CSRF-Token": "ü".encode()}):
        refused = browser.post("/api/sessions/", json=SESSION, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "csrf_token_required")
    made = browser.post("/api/sessions/", json=SESSION, headers=says)
    assert made.status_code == 201
    path = made.headers["Location"]
    assert browser.patch(path, json={"title": "x"}).json()["code"] == "csrf_token_required"
    assert browser.patch(path, json={"title": "x"}, headers=says).status_code == 200
    own = httpx.post(  # with the key itself nothing more has to be said: no browser sends it by itself
        f"{browser.base_url}/api/sessions/", json=SESSION, headers={"Authorization": f"Bearer {key('manage')}"}
    )
    assert own.status_code == 201


def test_what_one_sign_in_says_is_not_anothers(browser: Api, key: Key, guarded: Stack) -> None:
    token = key("operate", "manage")
    says = signed_in(browser, token)
    with Api(guarded.url) as other:
        signed_in(other, token)
        assert other.post("/api/sessions/", json=SESSION, headers=says).json()["code"] == "csrf_token_required"


def test_signing_out_ends_it_for_whoever_kept_the_cookie(browser: Api, key: Key) -> None:
    signed_in(browser, key("operate"))
    kept = browser.cookies["aforo_console"]
    assert browser.delete("/console/session").status_code == 204
    assert "aforo_console" not in browser.cookies
    again = browser.get("/api/operations/", headers={"Cookie": f"aforo_console={kept}"})
    assert (again.status_code, again.json()["code"]) == (401, "key_required")


@pytest.mark.parametrize("cookie", ["", "x", "x" * 43, "ü", "console:" + "x" * 43])
def test_a_made_up_cookie_opens_nothing(browser: Api, cookie: str) -> None:
    answer = browser.get("/api/operations/", headers={"Cookie": f"aforo_console={cookie}".encode()})
    assert (answer.status_code, answer.json()["code"]) == (401, "key_required")


def test_only_a_valid_key_with_the_scope_signs_in(browser: Api, key: Key) -> None:
    for given, status, code in (
        (key("read", "manage"), 403, "scope_missing"),
        (new_token(), 401, "key_invalid"),
        ("nonsense", 401, "key_invalid"),
    ):
        answer = browser.post("/console/session", json={"key": given})
        assert (answer.status_code, answer.json()["code"], "Set-Cookie" in answer.headers) == (status, code, False)


def test_a_revoked_key_ends_its_sign_ins_and_their_streams_within_five_seconds(browser: Api, key: Key, guarded: Stack) -> None:
    token = key("operate")
    signed_in(browser, token)
    with browser.stream("GET", "/api/operations/events") as stream:
        lines = stream.iter_lines()
        assert any(line.startswith("data: ") for line in lines)
        settings = guarded.deployment.settings(owner_url=guarded.deployment.owner_url)
        assert keys.revoke(settings, token.split("_")[1])
        for _ in lines:  # until the server ends it
            pass
    until(lambda: all(browser.get("/api/operations/").status_code == 401 for _ in range(8)))
    assert browser.get("/console/session").json()["client"] is None


def test_where_no_key_is_asked_for_nobody_signs_in(api: Api) -> None:
    shown = api.get("/console/session").json()
    assert (shown["open"], shown["csrf_token"], "manage" in shown["scopes"]) == (True, None, True)


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_that_stands_in_it(api: Api) -> None:
    page = api.get("/console/")
    assert page.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert re.findall(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=|<style", page.text) == []
    loaded = re.findall(r"(?:src|href)=\"([^\"#]+)\"", page.text)
    assert len(loaded) > 4
    for path in loaded:
        file = api.get(path)
        assert (file.status_code, path[0]) == (200, "/")
        assert api.get(path, headers={"If-None-Match": file.headers["ETag"]}).status_code == 304
    for module in re.findall(r"from \"\./(\w+\.js)\"", api.get("/console/app.js").text):
        assert api.get(f"/console/{module}").status_code == 200
    assert api.get("/console/index.html").status_code == 404
