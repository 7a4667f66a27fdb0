"""The targets, each judged from a book: what is wanted, what was measured, and whether that is enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from tests.bench.arithmetic import figure, spread
from tests.bench.book import Book, Growth, Latency
from tests.bench.workload import HOT, MANY, TITLES

MEASURED_AT, OVERLOADED_AT = 50, 300  # percent of capacity


@dataclass(frozen=True, slots=True)
class Target:
    """`measure` gives None where the run did not look."""

    title: str
    wanted: str
    measure: Callable[[Book], float | None]
    is_enough: Callable[[float], bool]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A target and what became of it; `met` is None where it was not measured."""

    target: Target
    measured: float | None
    met: bool | None

    @property
    def shown(self) -> str:
        """What was measured, in words."""
        return "not in this run" if self.measured is None else f"{figure(self.measured)}{self.target.unit}"


def at_least(title: str, least: float, measure: Callable[[Book], float | None], unit: str = "") -> Target:
    """The more the better."""
    return Target(title, f"≥ {least:g}{unit}", measure, lambda value: value >= least, unit)


def at_most(title: str, most: float, measure: Callable[[Book], float | None], unit: str = "") -> Target:
    """The less the better."""
    return Target(title, f"≤ {most:g}{unit}", measure, lambda value: value <= most, unit)


def ratio(name: str, to: str) -> Callable[[Book], float | None]:
    """Of two medians."""
    return lambda book: book.ratio(name, to)


def median(name: str) -> Callable[[Book], float | None]:
    """Of one figure's rounds."""

    def measure(book: Book) -> float | None:
        found = book.of(name)
        return found.median if found else None

    return measure


def overload(kind: str) -> Callable[[Book], float | None]:
    """Applied at three times capacity, over what is left of the peak when refusing the rest costs what an empty answer does."""

    def measure(book: Book) -> float | None:
        applied, refused, peak, floor = (
            book.of(name) for name in (f"overload {kind}", f"overload refused {kind}", f"A {kind}", "F")
        )
        if not (applied and refused and peak and floor):
            return None
        return applied.median / (peak.median * max(1e-9, 1 - refused.median / floor.median))

    return measure


def refusal_ms(kind: str) -> Callable[[Book], float | None]:
    """p99 of a 503 at three times capacity, from the moment of sending, in milliseconds; infinite where nobody was refused."""

    def measure(book: Book) -> float | None:
        if book.of(f"overload {kind}") is None:
            return None
        found = book.of(f"overload 503 p99 {kind}")
        return found.median * 1000 if found else math.inf

    return measure


def unanswered(kind: str) -> Callable[[Book], float | None]:
    """Who had no answer at three times capacity, in percent: found no connection free before the end, or lost it."""

    def measure(book: Book) -> float | None:
        found = [one for one in book.latencies if (one.kind, one.percent) == (kind, OVERLOADED_AT)]
        return found[0].unanswered_share * 100 if found else None

    return measure


def outcome_ms(kind: str, index: int) -> Callable[[Book], float | None]:
    """Accept to outcome at half load, in milliseconds; index 0: p50, 1: p99."""

    def measure(book: Book) -> float | None:
        found: list[Latency] = [one for one in book.latencies if (one.kind, one.percent) == (kind, MEASURED_AT)]
        return found[0].outcome[index] * 1000 if found else None

    return measure


def never_slower(book: Book) -> float | None:
    """The least of the steps between numbers of worker processes, as a ratio."""
    found = [book.of(f"apply {processes} {MANY}") for processes in (1, 2, 4)]
    steps = [after.median / before.median for before, after in pairwise(found) if before and after]
    return min(steps) if steps else None


def growth(rates: Callable[[Growth], list[tuple[list[float], list[float]]]]) -> Callable[[Book], float | None]:
    """The worst change of all sizes against the small database measured at the same time, in percent."""

    def measure(book: Book) -> float | None:
        changes = [
            100 * abs(spread(large).median / spread(small).median - 1)
            for one in book.growth
            for large, small in rates(one)
            if worse(large, small, rates is read_p99)
        ]
        return max(changes, default=0.0) if book.growth else None

    return measure


def worse(large: list[float], small: list[float], is_time: bool) -> bool:
    """Whether the large one does worse; doing better is no deviation."""
    more = spread(large).median > spread(small).median
    return more if is_time else not more


def apply_rate(one: Growth) -> list[tuple[list[float], list[float]]]:
    """Of one size."""
    return [(one.apply, one.apply_beside)]


def read_p99(one: Growth) -> list[tuple[list[float], list[float]]]:
    """Of one size: each way of reading."""
    return [(one.read_p99[name], one.read_p99_beside[name]) for name in one.read_p99]


TARGETS = (
    at_least("hot session, A/D", 6, ratio("A hot", "D hot")),
    at_least("hot session, A/B", 40, ratio("A hot", "B hot")),
    at_least("1,000 sessions, A/D", 1.5, ratio("A many", "D many")),
    at_least("apply alone, one worker process / E", 0.5, ratio(f"apply 1 {MANY}", f"E {MANY}")),
    at_least("apply alone, one hot session / E", 0.5, ratio(f"apply 1 {HOT}", f"E {HOT}")),
    at_least("accept alone / F, hot session", 0.35, ratio("accept hot", "F")),
    at_least("accept alone / F, 1,000 sessions", 0.35, ratio("accept many", "F")),
    at_least("batch endpoint, commands accepted / by single requests", 5, ratio("batch accept", "accept many")),
    at_least("batch endpoint, commands applied / by single requests", 2.5, ratio("batch applied", "A many")),
    *(
        target
        for kind in (HOT, MANY)
        for target in (
            at_most(f"accept to outcome at 50 % load, {TITLES[kind]}, p50", 8, outcome_ms(kind, 0), " ms"),
            at_most(f"accept to outcome at 50 % load, {TITLES[kind]}, p99", 40, outcome_ms(kind, 1), " ms"),
        )
    ),
    *(
        target
        for kind in (HOT, MANY)
        for target in (
            at_least(f"at 3 times capacity, {TITLES[kind]}: applied / (peak * (1 - refused / F))", 0.9, overload(kind)),
            at_most(f"at 3 times capacity, {TITLES[kind]}: a 503, p99 from sending", 100, refusal_ms(kind), " ms"),
            at_most(f"at 3 times capacity, {TITLES[kind]}: not answered", 1, unanswered(kind), " %"),
        )
    ),
    at_least("GET /api/sessions/ / F", 0.4, ratio("read list", "F")),
    at_least("GET /api/sessions/{id}/ / F", 0.4, ratio("read session", "F")),
    at_least("GET /api/sessions/ with 100 a page / F", 0.2, ratio("read list of 100", "F")),
    at_least("GET /api/sessions/{id}/ with 100 reservations / F", 0.2, ratio("read session with 100", "F")),
    at_most("growth: apply rate lost, 10^3 to 10^7 reservations", 15, growth(apply_rate), " %"),
    at_most("growth: read p99 gained", 25, growth(read_p99), " %"),
    at_least("1 to 2 to 4 worker processes, worst step", 1, never_slower),
    at_least("1 to 2 worker processes", 1.6, ratio(f"apply 2 {MANY}", f"apply 1 {MANY}")),
    at_most("Redis per queued command", 400, median("bytes queued"), " bytes"),
    at_most("Redis per finished job", 250, median("bytes finished"), " bytes"),
    at_most("idle, all processes together", 3, median("idle"), " % of a core"),
)


def judge(book: Book) -> list[Judged]:
    """Every target."""
    judged = []
    for target in TARGETS:
        measured = target.measure(book)
        is_number = measured is not None and not math.isnan(measured)
        judged.append(Judged(target, measured, target.is_enough(measured) if is_number and measured is not None else None))
    return judged
