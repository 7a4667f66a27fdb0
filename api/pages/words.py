"""What the pages say. English is the source; api/locale/es.po has the Spanish, as for everything else that people are told."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from babel.dates import format_date, format_time
from babel.numbers import format_decimal

from api.messages import translated
from core.queries import SessionView

WORDS: Final = {
    "skip": "Skip to the content",
    "when": "When",
    "where": "Where",
    "closes": "Reserve until",
    "places": "Places",
    "places_left": "{left} of {capacity} places free",
    "one_left": "1 of {capacity} places free: the last one",
    "none_left": "All {capacity} places are taken",
    "only_taken": "The only place is taken",
    "no_places": "There are no places",
    "waiting": "{waiting} waiting",
    "reserve": "Reserve",
    "reserve_title": "Reserve your place",
    "name": "Name",
    "email": "E-mail address",
    "seats": "How many places",
    "seats_hint": "From 1 to {most}.",
    "may_wait": "If no place is free, put me on the waiting list",
    "waitlist_open": "It is full, but you can join the waiting list. Who waits longest is let in first, by itself.",
    "full": "It is full, and so is the waiting list. Places come free when somebody cancels; this page shows it at once.",
    "full_for_all": "It is full. Places come free when somebody cancels; this page shows it at once.",
    "closed": "It takes no more reservations.",
    "not_open": "Reservations open on {when}.",
    "started": "It has started.",
    "over": "It is over.",
    "session_cancelled": "It has been cancelled.",
    "bad_name": "Give your name, in at most {longest} characters.",
    "bad_email": "This does not look like an e-mail address. One looks like ana@example.org.",
    "bad_seats": "Choose from 1 to {most} places.",
    "must_wait": "All places are taken. Tick the waiting list if you want to wait for one.",
    "look_again": "Please look at the form again",
    "form_old": "This form was open for too long or was sent already. Please check it and send it again.",
    "offline": "That did not get through. You can safely send it again: it will not count twice.",
    "lost": "There is no connection at the moment, so this may be out of date. It goes on by itself.",
    "queued_title": "Your request is in",
    "queued_ahead": "{ahead} ahead of you, about {seconds} s.",
    "queued_ahead_only": "{ahead} ahead of you.",
    "queued_next": "You are next, about {seconds} s.",
    "queued_next_only": "You are next.",
    "queued_here": "Its place in the order is kept. The outcome appears here by itself.",
    "confirmed_title": "You are in",
    "confirmed": "{seats} places are reserved for you.",
    "confirmed_one": "Your place is reserved.",
    "let_in": "A place came free. ",
    "waitlisted_title": "You are on the waiting list",
    "waitlisted": "You are number {position} in line.",
    "waitlisted_here": "You need not do anything: this page tells you when you are in, now or when you come back to it.",
    "cancelled_title": "It is cancelled",
    "cancelled": "Your reservation is cancelled. What comes free goes to whoever is next.",
    "ended_title": "The session is cancelled",
    "ended": "It does not take place, so your reservation has ended too.",
    "refused_title": "That did not work",
    "calendar": "Add to calendar",
    "manage": "See or cancel my reservation",
    "back": "Back to the session",
    "keep": "Keep this page's address: it is the way back to your reservation.",
    "own_title": "Your reservation",
    "own_confirmed": "Confirmed",
    "own_waitlisted": "Waiting, number {position} in line",
    "own_cancelled": "Cancelled",
    "own_ended": "Cancelled, as the session is",
    "status": "Status",
    "cancel": "Cancel my reservation",
    "cancel_title": "Do you want to cancel?",
    "cancel_hint": "The place goes to whoever is next, and cannot be taken back.",
    "cancel_hint_waiting": "You lose your place in line, and it cannot be taken back.",
    "gone_title": "There is nothing here",
    "gone": "This session does not exist, or has no public page.",
    "gone_own": "This address opens nothing. Perhaps the end of it is missing.",
    "trouble_title": "That did not work",
}


REGIONS: Final = {"en": "en_GB"}  # where days are written as here; else the language's own


def say(word: str, language: str, **values: Any) -> str:
    """What a page says, in that language; numbers as they are written in it."""
    shown = {name: number(value, language) if isinstance(value, int | float) else value for name, value in values.items()}
    return translated(WORDS[word], language).format(**shown)


def number(value: float, language: str) -> str:
    """A number as people write it: 1,000,000 or 1.000.000; what is no whole number with one digit after the point."""
    return format_decimal(value, "#,##0" if isinstance(value, int) else "#,##0.0", locale=language)


def moment(value: datetime, language: str) -> str:
    """A time in words, in UTC: a page with JavaScript shows its reader's own."""
    return f"{_day_and_time(value, language)} UTC"


def span(view: SessionView, language: str) -> str:
    """From when to when a session is."""
    begin = _day_and_time(view.start_time, language)
    if view.start_time.date() == view.end_time.date():
        return f"{begin}–{format_time(view.end_time, 'HH:mm', locale=language)} UTC"  # noqa: RUF001  a dash between times
    return f"{begin} – {moment(view.end_time, language)}"  # noqa: RUF001  the same


def _day_and_time(value: datetime, language: str) -> str:
    day = format_date(value, "full", locale=REGIONS.get(language, language))
    return f"{day}, {format_time(value, 'HH:mm', locale=language)}"
