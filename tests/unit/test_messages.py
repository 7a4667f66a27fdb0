"""What people are told: every message there is in both languages, and the language that was asked for."""

from __future__ import annotations

import ast
import inspect
import string
from pathlib import Path

import pytest

from api import errors, messages
from api.messages import catalog, preferred, sentence, translated
from api.pages.words import WORDS
from core import errors as core_errors

ROOT = Path(__file__).resolve().parents[2]


def messages_of(source: str) -> set[str]:
    """The messages that a module raises errors of Aforo with."""
    names = {name for module in (core_errors, errors) for name, value in vars(module).items() if _is_error(value)}
    constants = {n.targets[0].id: n.value.value for n in ast.parse(source).body if _is_text_constant(n)}  # type: ignore[attr-defined]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names and node.args:
            first = node.args[0]
            text = first.value if isinstance(first, ast.Constant) else constants.get(getattr(first, "id", ""))
            found |= {text} if isinstance(text, str) else set()
    return found


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, core_errors.AforoError)


def _is_text_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.targets[0], ast.Name)


def every_message() -> set[str]:
    """Every text that can become the detail of an answer."""
    found = set(messages.OUTCOMES.values()) | set(WORDS.values()) | {messages.REFUSED, messages.BROKEN, messages.NO_FILE}
    found |= {
        inspect.cleandoc(kind.__doc__ or "")
        for module in (core_errors, errors)
        for kind in vars(module).values()
        if _is_error(kind)
    }
    for package in ("api", "core"):
        for path in (ROOT / package).rglob("*.py"):
            found |= messages_of(path.read_text("utf-8"))
    return found


def test_no_message_is_missing_in_either_language() -> None:
    spanish = catalog("es")
    assert {text for text in every_message() if not (spanish.get(text) and spanish.get(text).string)} == set()


def test_the_search_for_messages_sees_what_it_must() -> None:
    source = 'X = "In a constant."\nraise Unavailable("Said here.")\nraise InvalidJson(X)\nraise ValueError("not this")'
    assert messages_of(source) == {"In a constant.", "Said here."}
    assert len(every_message()) > 40


def test_nothing_is_translated_that_nobody_says() -> None:
    from_falcon = {"Not Found.", "Method Not Allowed.", "Bad Request."}
    assert {message.id for message in catalog("es") if message.id} - every_message() <= from_falcon


def test_translations_have_the_same_fields() -> None:
    def fields(text: str) -> list[str]:
        return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)

    for message in catalog("es"):
        if message.id:
            assert fields(str(message.id)) == fields(str(message.string)), message.id


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("es", "es"),
        ("es-ES,es;q=0.9,en;q=0.5", "es"),
        ("en-GB, es;q=0.5", "en"),
        ("fr, es;q=0.3, en;q=0.2", "es"),
        ("fr", "en"),
        ("", "en"),
        ("*", "en"),
        ("es;q=0, en", "en"),
        ("es;q=x", "en"),
        (";;;,,,", "en"),
        ("ES-mx", "es"),
        ("e" * 10_000, "en"),
    ],
)
def test_the_language_that_is_asked_for_is_found(header: str, language: str) -> None:
    assert preferred(header) == language


def test_a_sentence_for_every_outcome() -> None:
    assert sentence("sold_out", "en") == "All places are taken."
    assert sentence("sold_out", "es") == "No quedan plazas."
    assert sentence(None, "es") is None
    assert translated("nobody says this", "es") == "nobody says this"
