"""Markup from templates that escape whatever is put into them, unless it is markup already; and the frame of every page."""

from __future__ import annotations

import html
import string
from collections.abc import Mapping
from typing import Any, Final

from api.browsers import PAGE

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# A form's request tells where it comes from only if referrers within the site are allowed.
HEADERS: Final[Mapping[str, str]] = {**PAGE, "Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


class _Escaping(string.Formatter):
    def format_field(self, value: Any, _spec: str) -> str:
        return value if isinstance(value, Markup) else html.escape(str(value))


_formatter = _Escaping()


def fill(template: str, **values: Any) -> Markup:
    """The template with these values in it, escaped."""
    return Markup(_formatter.vformat(template, (), values))


def joined(*parts: Markup | None) -> Markup:
    """These parts one after the other; None is nothing."""
    return Markup("\n".join([part for part in parts if part is not None]))


def lines(text: str) -> Markup:
    """A text of several lines, each on a line of its own."""
    return Markup("<br>".join([html.escape(line) for line in text.splitlines()]))
