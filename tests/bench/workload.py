"""What is sent: requests as templates that both load generators fill in alike, and the order in which sessions are chosen.

A template is bytes with three marks: SESSION stands for the next session of the order, NUMBER for the next number, SAME for that
number again. Numbers and session ids have a fixed width, so Content-Length is part of the template.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SESSION, NUMBER, SAME = "\x01", "\x02", "\x03"
NUMBER_DIGITS = 9
SESSION_DIGITS = 6
ORDER_LENGTH = 65_536  # then it begins again
ZIPF_EXPONENT = 1.1
_MARK = re.compile("([\x01\x02\x03])")
_AS_BYTES = {SESSION: "%d", NUMBER: f"%0{NUMBER_DIGITS}d", SAME: f"%0{NUMBER_DIGITS}d"}

HOT, MANY, ZIPF = "hot", "many", "zipf"
SESSIONS = {HOT: 1, MANY: 1000, ZIPF: 10_000}
TITLES = {HOT: "one hot session", MANY: "1,000 sessions", ZIPF: "Zipf over 10,000"}


@dataclass(frozen=True, slots=True)
class Requests:
    """A template, and the sessions it goes to, in their order. `commands`: how many commands each request carries."""

    template: str
    order: Sequence[int]
    commands: int = 1

    def maker(self, first_number: int) -> Callable[[], bytes]:
        """Makes one request after the other, as wrk.lua does."""
        marks = [part for part in _MARK.split(self.template) if part in _AS_BYTES]
        pattern = "".join([_AS_BYTES.get(part, part.replace("%", "%%")) for part in _MARK.split(self.template)]).encode()
        order, at, number = self.order, first_number % len(self.order), first_number

        def make() -> bytes:
            nonlocal at, number
            filled = []
            for mark in marks:
                if mark == SESSION:
                    filled.append(order[at])
                    at = (at + 1) % len(order)
                else:
                    number += mark == NUMBER
                    filled.append(number)
            return pattern % tuple(filled)

        return make


def order_of(kind: str, first: int, count: int, seed: int) -> list[int]:
    """The order in which sessions `first` to `first + count - 1` are chosen."""
    sessions = range(first, first + count)
    if count == 1:
        return [first]
    chance = random.Random(seed)
    weights = [1 / rank**ZIPF_EXPONENT for rank in range(1, count + 1)] if kind == ZIPF else None
    return chance.choices(sessions, weights, k=ORDER_LENGTH)


def reserving(order: Sequence[int], *headers: str, label: str = "") -> Requests:
    """One reservation a request, everybody a person of their own; a `label` where the same sessions are used again."""
    body = f'{{"name":"Guest {NUMBER}","email":"guest-{label}{SAME}@example.org"}}'
    return Requests(_post(f"/api/sessions/{SESSION}/reserve/", body, *headers), order)


def batches(order: Sequence[int], size: int) -> Requests:
    """`size` reservations a request, to as many sessions."""
    one = f'{{"session":{SESSION},"kind":"reserve","name":"Guest {NUMBER}","email":"guest-{SAME}@example.org"}}'
    body = f'{{"commands":[{",".join([one] * size)}]}}'
    return Requests(_post("/api/batches/", body, f"Idempotency-Key: batch-{NUMBER}"), order, size)


def reading(path: str, order: Sequence[int]) -> Requests:
    """GET of a path, which may contain SESSION."""
    return Requests(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", order)


def _post(path: str, body: str, *headers: str) -> str:
    length = sum(
        {SESSION: SESSION_DIGITS, NUMBER: NUMBER_DIGITS, SAME: NUMBER_DIGITS}.get(part, len(part)) for part in _MARK.split(body)
    )
    lines = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers, f"Content-Length: {length}")
    return "\r\n".join(lines) + "\r\n\r\n" + body
