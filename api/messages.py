"""What people are told, in the language they prefer: the sentence of every outcome, and translations of every detail.

English is the source; `locale/es.po` (gettext) has the Spanish. Codes never change, so programs need none of this.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Final

import falcon.asgi
from babel.core import negotiate_locale
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

from core.errors import AforoError

SOURCE: Final = "en"
LANGUAGES: Final = (SOURCE, "es")
LONGEST_HEADER: Final = 200

OUTCOMES: Final = {
    "confirmed": "The places are reserved.",
    "waitlisted": "There is no room now; the reservation waits for places to come free.",
    "cancelled": "It is cancelled.",
    "reduced": "Some of the places were given back.",
    "amended": "The reservation was changed.",
    "resized": "The session has a new size.",
    "configured": "The settings were changed.",
    "session_closed": "The session takes no more reservations.",
    "session_reopened": "The session takes reservations again.",
    "created": "The session was created.",
    "replayed": "The request had been applied before.",
    "session_cancelled": "The session has been cancelled.",
    "closed": "The session is closed for reservations.",
    "not_open": "The session does not take reservations yet.",
    "started": "The session has started.",
    "duplicate": "This e-mail address already holds a reservation in this session.",
    "not_found": "This e-mail address holds no reservation in this session.",
    "not_confirmed": "The reservation still waits for a place: nobody can be checked in with it.",
    "too_many_seats": "So many seats cannot be reserved, or given back, at once.",
    "below_reserved": "More places are taken than would be left.",
    "bad_times": "The session would end before it starts, or close before it opens.",
    "too_many_moves": "The change would move too many reservations at once; take smaller steps.",
    "sold_out": "All places are taken.",
    "quarantined": "The request could not be decided and was set aside for an operator to look at.",
}
REFUSED: Final = "The request was refused"
BROKEN: Final = "Something went wrong here. It has been logged."
NO_FILE: Final = "There is no such file."


@lru_cache
def catalog(language: str) -> Catalog:
    """The translations of a language; read once."""
    with resources.files("api").joinpath("locale", f"{language}.po").open("rb") as file:
        return read_po(file, locale=language)


@lru_cache(maxsize=256)
def preferred(header: str) -> str:
    """The language that an Accept-Language header asks for, of those there are; English when it asks for none of them."""
    weighed: list[tuple[float, str]] = []
    for part in header[:LONGEST_HEADER].lower().split(","):
        name, _, weight = part.partition(";q=")
        try:
            weighed.append((-float(weight or 1), name.strip()))
        except ValueError:
            continue
    wanted = [name for weight, name in sorted(weighed, key=lambda pair: pair[0]) if weight < 0 and name]
    return negotiate_locale(wanted, LANGUAGES, sep="-") or SOURCE


def language(req: falcon.asgi.Request) -> str:
    """The language to answer this request in."""
    header = req.get_header("Accept-Language")
    return SOURCE if header is None else preferred(header)


def translated(text: str, language: str) -> str:
    """The text in that language; itself where there is no translation."""
    if language == SOURCE:
        return text
    message = catalog(language).get(text)
    return str(message.string) if message is not None and message.string else text


def sentence(outcome: str | None, language: str) -> str | None:
    """What an outcome means, in one sentence; None while there is none."""
    return None if outcome is None else translated(OUTCOMES[outcome], language)


def detail(error: AforoError, language: str) -> str:
    """What an error says, in that language."""
    return translated(error.template, language).format(**error.values) if error.values else translated(str(error), language)
