"""The contract and its page as a browser gets them: complete, from this host alone, and nothing else from the disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.http import Api

ROOT = Path(__file__).resolve().parents[2]


def test_the_schema_that_is_served_is_the_file(api: Api) -> None:
    answer = api.get("/api/schema/")
    assert answer.headers["Content-Type"] == "application/yaml"
    assert answer.content == (ROOT / "openapi.yaml").read_bytes()


@pytest.mark.parametrize("path", ["/api/schema/", "/api/docs/", "/api/docs/swagger-ui-bundle.js"])
def test_who_has_it_already_gets_304(api: Api, path: str) -> None:
    first = api.get(path)
    again = api.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert api.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


def test_the_page_loads_everything_from_here_and_all_of_it_is_there(api: Api) -> None:
    page = api.get("/api/docs/")
    assert page.headers["Content-Type"].startswith("text/html")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert "/api/docs/swagger-ui-bundle.js" in addresses
    assert [address for address in addresses if not address.startswith("/api/")] == []
    assert {address: api.get(address).status_code for address in addresses} == dict.fromkeys(addresses, 200)
    assert re.findall(r"<script(?![^>]*\bsrc=)", page.text) == []


def test_the_browser_is_told_to_load_nothing_from_elsewhere(api: Api) -> None:
    policy = api.get("/api/docs/").headers["Content-Security-Policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert {source for rule in rules.values() for source in rule.split()} <= {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert rules["script-src"] == "'self'"


@pytest.mark.parametrize("name", ["nothing", "..%2f..%2fapp.py", "%2e%2e/%2e%2e/app.py", "README.md", "docs.html", "swagger-ui"])
def test_nothing_else_is_served(api: Api, name: str) -> None:
    answer = api.get(f"/api/docs/{name}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


def test_the_short_address_leads_to_the_page(api: Api) -> None:
    answer = api.get("/docs/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/api/docs/")


def test_the_vendored_files_keep_their_licence() -> None:
    vendored = ROOT / "api" / "static" / "swagger-ui"
    assert "Apache License" in (vendored / "LICENSE").read_text("utf-8")
    assert (vendored / "NOTICE").exists()
