"""openapi.yaml by itself, and against what the router and the error table say: same paths, methods, codes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import falcon.inspect
import jsonschema
import pytest
from jsonschema_path import SchemaPath
from openapi_spec_validator import OpenAPIV31SpecValidator

from api import errors, messages
from api.app import create_app
from core.model import REFUSALS
from tests.support.answers import REGISTRY, SPEC, resolved

METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, item[method]) for path, item in SPEC["paths"].items() for method in item if method in METHODS]


def contents() -> list[tuple[str, dict[str, Any]]]:
    """Every content of a request or an answer, with a name."""
    found = []
    for path, method, operation in operations():
        bodies = {"request": operation["requestBody"]} if "requestBody" in operation else {}
        for name, body in {**bodies, **operation["responses"]}.items():
            for media, content in resolved(body).get("content", {}).items():
                found.append((f"{method} {path} {name} {media}", content))
    return found


def faults_of(content: dict[str, Any]) -> list[str]:
    """What is wrong with a content's examples."""
    schema = content.get("schema", True)
    validator = jsonschema.Draft202012Validator(
        schema, registry=REGISTRY, format_checker=jsonschema.FormatChecker(["date-time"]), _resolver=REGISTRY.resolver("")
    )
    found = []
    for name, example in content.get("examples", {}).items():
        found += [f"{name}: {error.message}" for error in validator.iter_errors(resolved(example)["value"])]
    return found


def test_it_is_a_valid_openapi_3_1_document() -> None:
    assert SPEC["openapi"].startswith("3.1")
    assert [str(error) for error in OpenAPIV31SpecValidator(SchemaPath.from_dict(SPEC)).iter_errors()] == []


def test_every_json_content_has_an_example() -> None:
    assert [name for name, content in contents() if "json" in name and not content.get("examples")] == []


@pytest.mark.parametrize(("name", "content"), contents(), ids=[name for name, _ in contents()])
def test_every_example_fits_its_schema(name: str, content: dict[str, Any]) -> None:
    assert faults_of(content) == []


def test_an_example_that_does_not_fit_is_seen() -> None:
    job = {"examples": {"wrong": {"value": {"id": "no"}}}, "schema": {"$ref": "#/components/schemas/Job"}}
    assert faults_of(job) != []


def test_router_and_file_list_the_same_paths_and_methods() -> None:
    unset = {"cors_origins": (), "rate_per_key": None, "rate_per_address": None, "read_cache_mb": 1, "trusted_proxies": ""}
    services = SimpleNamespace(settings=SimpleNamespace(log_level="warning", auth="open", **unset))
    routes = falcon.inspect.inspect_routes(create_app(services))  # type: ignore[arg-type]
    served = {(route.path, m.method.lower()) for route in routes for m in route.methods if not m.internal}
    written = {(path if path == "/" else path.rstrip("/"), method) for path, method, _ in operations()}
    assert served == written


def test_operation_ids_are_there_and_distinct() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)


def test_every_code_that_can_be_answered_is_listed_and_no_other() -> None:
    listed = set(SPEC["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    answered = {code for _, code, _ in errors.TABLE.values()} | set(errors.OF_STATUS.values()) | {*REFUSALS, "quarantined"}
    assert listed == answered


def test_every_refusal_is_an_outcome_and_has_its_words() -> None:
    outcomes = SPEC["components"]["schemas"]["Outcome"]["enum"]
    assert set(REFUSALS) <= set(outcomes)
    assert [outcome for outcome in outcomes if outcome in REFUSALS] == list(REFUSALS)
    assert set(messages.OUTCOMES) == set(outcomes)


def test_every_error_of_the_table_is_documented_at_some_answer() -> None:
    shown = {
        str(resolved(example)["value"].get("code"))
        for _, content in contents()
        for example in content.get("examples", {}).values()
        if isinstance(resolved(example)["value"], dict)
    }
    unshown = {"bad_request", "internal_error", "method_not_allowed", *REFUSALS, "quarantined"}
    assert {code for _, code, _ in errors.TABLE.values()} - shown <= unshown
