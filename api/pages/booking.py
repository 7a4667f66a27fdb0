"""The parts of the booking page: a session with its form, what became of a request, one's own reservation, and errors.

All that people read is made here, also what appears without a reload: streams bring the same parts, so no script holds words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from math import ceil
from typing import Any, Final
from urllib.parse import urlencode

from api.messages import OUTCOMES, translated
from api.pages.markup import Markup, fill, joined, lines
from api.pages.words import moment, number, say, span
from core.entries import SessionHead
from core.model import CANCEL, CANCELLED, CONFIRMED, WAITLISTED, JobReservation, Session
from core.phases import CLOSED, OPEN
from core.projections import JobNow
from core.queries import OwnReservation, SessionView
from core.validation import EMAIL_MAX, NAME_MAX

BOOKABLE: Final = ("open", "waitlist")
DONE: Final = ("session_cancelled", "over", "started")
Counts = SessionHead | Session

_FRAME = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{title}</title>
<link rel="icon" href="/static/aforo.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/aforo.css">
{head}
<script src="/static/booking.js" defer></script>
</head>
<body>
<a class="skip unseen" href="#content">{skip}</a>
<header class="bar narrow"><span class="brand">{brand}</span>
<a href="{switch}" lang="{other}" hreflang="{other}">{another}</a></header>
<p class="unseen" role="status" id="said"></p>
<div class="narrow lost" id="lost" hidden><p class="notice warn">{lost}</p></div>
<main id="content" class="narrow stack" tabindex="-1">
{main}
</main>
</body>
</html>
"""
_REFRESH = '<noscript><meta http-equiv="refresh" content="{seconds}"></noscript>'
REFRESH_SECONDS: Final = 2
LONGEST_REFRESH_SECONDS: Final = 3600
_FACT = "<div><dt>{name}</dt><dd>{value}</dd></div>"
_WORDS = '<bdi>{text}</bdi>'
_TIME = '<time datetime="{iso}" data-moment="{kind}" data-end="{end}">{text}</time>'
_PLACES = """<p class="number"><strong>{text}</strong>{waiting}</p>
<meter class="fill" min="0" max="{capacity}" value="{reserved}" aria-label="{label}">{text}</meter>
{notice}"""
_FIELD = """<div class="field"><label for="{name}">{label}</label>
<input id="{name}" name="{name}" {kind} value="{value}"{invalid}>
{hint}{wrong}</div>"""
_FORM = """<section class="card stack" id="booking"{hidden}><h2>{title}</h2>
{trouble}
<form method="post" action="{action}" data-send novalidate>
{fields}
<input type="hidden" name="form" value="{token}">
<p class="notice bad" role="alert" data-offline="{offline}" hidden></p>
<button type="submit">{send}</button>
</form></section>"""
_OUTCOME = """<h1 tabindex="-1" data-focus>{title}</h1>
<div class="notice {tone}"><p>{text}</p></div>
{more}"""


def url(path: str, language: str, **words: str) -> str:
    """An address of a page, which keeps its language."""
    return f"{path}?{urlencode({**words, 'lang': language})}"


def page(title: str, main: Markup, language: str, switch: Callable[[str], str], head: Markup | None = None) -> bytes:
    """A whole page; `switch(language)` is its address in another one."""
    other = "en" if language == "es" else "es"
    return fill(
        _FRAME,
        language=language,
        title=title,
        head=head or Markup(),
        skip=say("skip", language),
        brand="Aforo",
        switch=switch(other),
        other=other,
        lost=say("lost", language),
        another="View in English" if other == "en" else "Ver en español",
        main=main,
    ).encode()


def shape_of(now: Counts, phase: str) -> str:
    """What a session is to somebody who wants to come: open, waitlist, full, closed, not_open, started, over or
    session_cancelled."""
    if now.state == CANCELLED:
        return "session_cancelled"
    if phase in DONE:
        return phase
    if now.state != "open":
        return CLOSED
    if phase != OPEN:
        return phase
    if now.reserved < now.capacity and not now.waiting:
        return "open"
    return "waitlist" if now.capacity and now.waiting < now.waitlist_capacity else "full"


def places(view: SessionView, now: Counts, shape: str, language: str) -> Markup:
    """How many places there are, and what that means."""
    if shape in DONE:
        return _notice(shape, "bad" if shape == "session_cancelled" else "", language)
    left = max(0, now.capacity - now.reserved)
    none = {0: "no_places", 1: "only_taken"}.get(now.capacity, "none_left")
    word = none if not left else "one_left" if left == 1 else "places_left"
    text = say(word, language, left=left, capacity=now.capacity)
    waiting = fill(' · <span class="muted">{text}</span>', text=say("waiting", language, waiting=now.waiting))
    notice = Markup()
    if shape == "not_open" and view.opens_at is not None:
        words = say("not_open", language, when="{when}")
        before, _, after = words.partition("{when}")
        notice = fill('<p class="notice">{a}{time}{b}</p>', a=before, time=_time(view.opens_at, language), b=after)
    elif shape != "open" and now.capacity:
        full = "full" if now.waitlist_capacity else "full_for_all"
        notice = _notice({"waitlist": "waitlist_open", "full": full}.get(shape, shape), "warn", language)
    return fill(
        _PLACES,
        text=text,
        waiting=waiting if now.waiting else Markup(),
        capacity=max(1, now.capacity),
        reserved=min(now.reserved, now.capacity),
        label=say("places", language),
        notice=notice,
    )


def _notice(word: str, tone: str, language: str) -> Markup:
    return fill('<p class="notice {tone}">{text}</p>', tone=tone, text=say(word, language))


def _time(value: datetime, language: str) -> Markup:
    return fill(_TIME, iso=value.isoformat(), kind="one", end="", text=moment(value, language))


def about(view: SessionView, language: str) -> Markup:
    """What a session is: title, description, times, place."""
    when = fill(_TIME, iso=view.start_time.isoformat(), kind="span", end=view.end_time.isoformat(), text=span(view, language))
    facts = [fill(_FACT, name=say("when", language), value=when)]
    if view.location:
        facts.append(fill(_FACT, name=say("where", language), value=fill(_WORDS, text=view.location)))
    if view.closes_at is not None:
        facts.append(fill(_FACT, name=say("closes", language), value=_time(view.closes_at, language)))
    told = fill('<p class="told" dir="auto">{text}</p>', text=lines(view.description)) if view.description else None
    return joined(told, fill('<dl class="facts">{facts}</dl>', facts=joined(*facts)))


def heading(view: SessionView, language: str) -> Markup:
    """The same with its title, for the page of its own."""
    return joined(fill('<h1 dir="auto">{title}</h1>', title=view.title), about(view, language))


def told_of(view: SessionView) -> tuple[Any, ...]:
    """What `heading` shows of it."""
    return (view.title, view.description, view.location, view.start_time, view.end_time, view.closes_at)


def session(
    view: SessionView,
    now: Counts,
    shape: str,
    language: str,
    token: str,
    given: Mapping[str, str] | None = None,
    wrong: Mapping[str, str] | None = None,
    trouble: str | None = None,
) -> Markup:
    """The page of a session. `given`: what somebody has filled in, `wrong` and `trouble` what is the matter with it."""
    events = url(f"/s/{view.id}/events", language)
    head = fill(
        '<div class="card stack"><div id="about" class="stack">{heading}</div>'
        '<div id="places" class="stack" data-events="{events}" data-shape="{shape}" tabindex="-1">{places}</div></div>',
        heading=heading(view, language),
        events=events,
        shape=shape,
        places=places(view, now, shape, language),
    )
    if shape in DONE:
        return head
    return joined(head, _form(view, now, shape in BOOKABLE, language, token, given or {}, wrong or {}, trouble))


def most_seats(view: SessionView, now: Counts) -> int:
    """How many seats one may ask for at most."""
    return max(1, min(view.max_seats_per_reservation, now.capacity))


def _form(
    view: SessionView,
    now: Counts,
    is_shown: bool,
    language: str,
    token: str,
    given: Mapping[str, str],
    wrong: Mapping[str, str],
    trouble: str | None,
) -> Markup:
    """It is there, if hidden, also before reservations open: then nobody who looks already has to fetch anything."""
    most = most_seats(view, now)

    def field(name: str, kind: str, value: str = "", hint: str | None = None) -> Markup:
        bad = wrong.get(name)
        described = [f"{name}-hint"] * (hint is not None) + [f"{name}-wrong"] * (bad is not None)
        marks = (' aria-invalid="true"' if bad else "") + (f' aria-describedby="{" ".join(described)}"' if described else "")
        return fill(
            _FIELD,
            name=name,
            label=say(name, language),
            kind=Markup(kind),
            value=given.get(name, value),
            invalid=Markup(marks),
            hint=fill('<p class="hint" id="{name}-hint">{text}</p>', name=name, text=hint) if hint else Markup(),
            wrong=fill('<p class="wrong" id="{name}-wrong">{text}</p>', name=name, text=bad) if bad else Markup(),
        )

    fields = [
        field("name", f'type="text" autocomplete="name" maxlength="{NAME_MAX}" required'),
        field("email", f'type="email" autocomplete="email" maxlength="{EMAIL_MAX}" inputmode="email" required'),
    ]
    if most > 1:
        hint = say("seats_hint", language, most=most)
        fields.append(field("seats", f'type="number" min="1" max="{most}" inputmode="numeric" required', "1", hint))
    if now.waitlist_capacity:
        ticked = Markup(" checked") if not given or given.get("wait") else Markup()
        check = '<label class="check"><input type="checkbox" name="wait" value="yes"{ticked}><span>{text}</span></label>'
        fields.append(fill(check, ticked=ticked, text=say("may_wait", language)))
    said = trouble or (say("look_again", language) if wrong else None)
    summary = '<p class="notice bad" role="alert" tabindex="-1" data-focus>{text}</p>'
    return fill(
        _FORM,
        hidden=Markup("" if is_shown else " hidden"),
        title=say("reserve_title", language),
        trouble=fill(summary, text=said) if said else Markup(),
        action=url(f"/s/{view.id}", language),
        fields=joined(*fields),
        token=token,
        offline=say("offline", language),
        send=say("reserve", language),
    )


def followed(now: JobNow, inner: Markup, events: str, view: SessionView, language: str) -> Markup:
    """What became of a request, in the place where its stream puts what follows; and which session it is about."""
    goes_on = ' data-events="{events}"' if not now.is_final else ""
    template = '<section class="card stack" id="outcome" data-shape="{shape}"' + goes_on + ">{inner}</section>"
    what = '<section class="card stack"><h2 dir="auto">{title}</h2>{about}</section>'
    outcome = fill(template, events=events, shape=shape_of_job(now), inner=inner)
    return joined(outcome, fill(what, title=view.title, about=about(view, language)))


def shape_of_job(now: JobNow) -> str:
    """What a request is to whoever sent it; another shape is worth a fresh look."""
    held = now.job.reservation
    return f"{now.job.outcome}-{held.status if held else None}-{now.session_cancelled}"


def outcome(now: JobNow, language: str, manage_token: Callable[[int], str]) -> Markup:
    """What became of a request, or what is known of it so far."""
    job, held = now.job, now.job.reservation
    back = _link(url(f"/s/{job.session_id}", language), say("back", language), "quiet")
    if job.outcome is None:
        return _shown("queued_title", "", _ahead(now, language), language, _small("queued_here", language))
    if job.kind != CANCEL and held is not None and held.status in (CONFIRMED, WAITLISTED):
        return _held(now, held, language, manage_token)
    if now.session_cancelled:
        return _shown("ended_title", "bad", say("ended", language), language, back)
    if (held is not None and held.status == CANCELLED) or job.outcome == CANCELLED:
        return _shown("cancelled_title", "", say("cancelled", language), language, back)
    text = translated(OUTCOMES[job.outcome], language)
    return _shown("refused_title", "bad", text, language, back)


def _held(now: JobNow, held: JobReservation, language: str, manage_token: Callable[[int], str]) -> Markup:
    path, token = f"/s/{held.session}/reservations/{held.id}", manage_token(held.id)
    links = [
        _link(url(f"{path}.ics", language, key=token), say("calendar", language), "") if held.status == CONFIRMED else None,
        _link(url(path, language, key=token), say("manage", language), "quiet"),
    ]
    row = fill('<div class="row choices">{links}</div>', links=joined(*links))
    if held.status == CONFIRMED:
        words = say("confirmed_one", language) if held.seats == 1 else say("confirmed", language, seats=held.seats)
        words = (say("let_in", language) if now.job.outcome == WAITLISTED else "") + words
        return _shown("confirmed_title", "good", words, language, joined(row, _small("keep", language)))
    words = say("waitlisted", language, position=now.position or 1)
    return _shown("waitlisted_title", "warn", words, language, joined(_small("waitlisted_here", language), row))


def _ahead(now: JobNow, language: str) -> str:
    traffic = now.traffic
    ahead = max(0, now.job.seq - traffic.applied_seq - 1) if traffic is not None else 0
    word = "queued_ahead" if ahead else "queued_next"
    if traffic is None or traffic.pace <= 0:
        return say(f"{word}_only", language, ahead=ahead)
    return say(word, language, ahead=ahead, seconds=max(0.1, traffic.depth / traffic.pace))


def _shown(title: str, tone: str, text: str, language: str, more: Markup) -> Markup:
    return fill(_OUTCOME, title=say(title, language), tone=tone, text=text, more=more)


def _small(word: str, language: str) -> Markup:
    return fill('<p class="muted">{text}</p>', text=say(word, language))


def _link(address: str, text: str, manner: str) -> Markup:
    return fill('<a class="button {manner}" href="{address}">{text}</a>', manner=manner, address=address, text=text)


def waiting_head(now: JobNow) -> Markup | None:
    """For browsers without JavaScript: look again, while there is something to wait for."""
    return None if now.job.outcome is not None else fill(_REFRESH, seconds=REFRESH_SECONDS)


def opening_head(view: SessionView, at: datetime) -> Markup | None:
    """For them also: look again when reservations open."""
    if view.opens_at is None:
        return None
    seconds = ceil((view.opens_at - at).total_seconds())
    return fill(_REFRESH, seconds=max(1, min(seconds, LONGEST_REFRESH_SECONDS)))


def own(found: OwnReservation, language: str, token: str, key: str, at: datetime) -> Markup:
    """One's own reservation, with the form that gives it back."""
    held, view = found.reservation, found.session
    ended = view.cancelled_at is not None
    status = say("own_ended" if ended else f"own_{held.status}", language, position=found.position or 1)
    facts = joined(
        fill(_FACT, name=say("status", language), value=status),
        fill(_FACT, name=say("name", language), value=fill(_WORDS, text=held.name)),
        fill(_FACT, name=say("places", language), value=number(held.seats, language)),
    )
    path = f"/s/{view.id}/reservations/{held.id}"
    shown = fill(
        '<div class="card stack"><h1>{title}</h1><h2 dir="auto">{session}</h2>{about}'
        '<dl class="facts">{facts}</dl>{calendar}</div>',
        title=say("own_title", language),
        session=view.title,
        about=about(view, language),
        facts=facts,
        calendar=_link(url(f"{path}.ics", language, key=key), say("calendar", language), "quiet")
        if held.status != CANCELLED and not ended
        else Markup(),
    )
    back = _link(url(f"/s/{view.id}", language), say("back", language), "quiet") if view.public else Markup()
    if held.status == CANCELLED or ended or at >= view.start_time:
        return joined(shown, back)
    form = fill(
        '<section class="card stack"><h2>{title}</h2><p>{hint}</p><form method="post" action="{action}" data-send>'
        '<input type="hidden" name="form" value="{token}">'
        '<p class="notice bad" role="alert" data-offline="{offline}" hidden></p>'
        '<div class="row choices"><button class="danger" type="submit">{send}</button>{back}</div></form></section>',
        title=say("cancel_title", language),
        hint=say("cancel_hint" if held.status == CONFIRMED else "cancel_hint_waiting", language),
        action=url(path, language, key=key),
        token=token,
        offline=say("offline", language),
        send=say("cancel", language),
        back=back,
    )
    return joined(shown, form)


def trouble(title: str, text: str, language: str, session: str | None) -> Markup:
    """Something went wrong, or is not there. `session`: where to go back to."""
    back = None if session is None else _link(url(f"/s/{session}", language), say("back", language), "quiet")
    shown = '<div class="card stack"><h1 tabindex="-1" data-focus>{title}</h1><p data-detail>{text}</p>{back}</div>'
    return fill(shown, title=title, text=text, back=back or Markup())


def part(where: str, inner: Markup, shape: str, is_last: bool, about: Markup | None = None) -> dict[str, Any]:
    """What a stream brings: markup for the element with this id; and for the session's heading, if that has changed."""
    return {"id": where, "html": str(inner), "shape": shape, "last": is_last, "about": about and str(about)}
