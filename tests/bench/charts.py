"""The charts of docs/bench.md, each to be read at a glance: throughput beside the peers, latency by load, rates by size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.bench.arithmetic import figure, spread
from tests.bench.book import Book, Latency
from tests.bench.svg import Drawing, Point, Scale, linear, logarithmic, round_steps
from tests.bench.workload import HOT, MANY, TITLES, ZIPF

WIDTH = 860.0
BARS = (
    ("A", "Aforo"),
    ("D1", "pgbench, in one statement"),
    ("D", "pgbench, row locks"),
    ("C", "endpoint with row lock"),
    ("B", "a Celery task each"),
)
BAR, BAR_STEP, GROUP_GAP = 20.0, 27.0, 34.0
LABELS, RIGHT = 208.0, 190.0
FASTEST_MS, SLOWEST_MS = 1.0, 10_000.0


def throughput(book: Book) -> str:
    """Bars: applied reservations a second, all on one scale."""
    groups = [(kind, [(name, words) for name, words in BARS if book.of(f"{name} {kind}")]) for kind in (HOT, MANY, ZIPF)]
    groups = [(kind, bars) for kind, bars in groups if bars]
    height = 84 + sum(len(bars) * BAR_STEP + GROUP_GAP for _, bars in groups)
    drawing = Drawing(WIDTH, height, "Reservations a second")
    drawing.text((24, 34), "Reservations a second, accepted and applied", size=17, bold=True)
    drawing.text(
        (24, 54), "The same rows with the same durability, one run on one machine; the line shows least and most.", "quiet"
    )
    most = max(book.of(f"{name} {kind}").most for kind, bars in groups for name, _ in bars)  # type: ignore[union-attr]
    across = linear(0, most, LABELS, WIDTH - RIGHT)
    y = 84.0
    for kind, bars in groups:
        drawing.text((24, y + 4), TITLES[kind], bold=True)
        y += 14
        for name, words in bars:
            found = book.of(f"{name} {kind}")
            assert found is not None
            own = name == "A"
            drawing.text((LABELS - 10, y + 15), words, "ink" if own else "quiet", anchor="end", bold=own)
            drawing.box((LABELS, y), across(found.median) - LABELS, BAR, "own" if own else "other")
            if found.rounds > 1:
                drawing.line([(across(found.least), y + BAR / 2), (across(found.most), y + BAR / 2)], "ink", width=1.5)
            times = f"   Aforo: {figure(ratio)} times" if not own and (ratio := book.ratio(f"A {kind}", f"{name} {kind}")) else ""
            end = max(across(found.most), across(found.median)) + 8
            drawing.text((end, y + 15), figure(found.median), "ink", bold=own)
            drawing.text((end + 8 + 7.5 * len(figure(found.median)), y + 15), times, "quiet", size=12)
            y += BAR_STEP
        y += GROUP_GAP - 14
    return str(drawing)


def latency(book: Book) -> str:
    """Lines: p50 and p99 of accepting and of the outcome, over the load, on a logarithmic scale."""
    kinds = [kind for kind in (HOT, MANY) if any(one.kind == kind for one in book.latencies)]
    drawing = Drawing(WIDTH, 400, "Latency by load")
    drawing.text((24, 34), "How long it takes at a given load", size=17, bold=True)
    drawing.text((24, 54), "From the moment a request was due. Solid: half are faster; dashed: 99 of 100 are.", "quiet")
    drawing.text((WIDTH - 170, 34), "until the 202", "own", anchor="end", bold=True)
    drawing.text((WIDTH - 24, 34), "until the outcome", "second", anchor="end", bold=True)
    room = (WIDTH - 24 - 24) / max(1, len(kinds))
    for number, kind in enumerate(kinds):
        left = 24 + number * room
        _latency_panel(drawing, [one for one in book.latencies if one.kind == kind], left + 52, left + room - 24, TITLES[kind])
    return str(drawing)


def _latency_panel(drawing: Drawing, loads: list[Latency], left: float, right: float, title: str) -> None:
    top, bottom = 108.0, 350.0
    up = logarithmic(FASTEST_MS, SLOWEST_MS, bottom, top)
    drawing.text((left, top - 18), title, bold=True)
    for value in (1, 10, 100, 1000, 10_000):
        drawing.line([(left, up(value)), (right, up(value))], "grid")
        drawing.text(
            (left - 8, up(value) + 4), f"{value:,} ms" if value < 1000 else f"{value // 1000} s", "quiet", size=11, anchor="end"
        )
    places = [left + (right - left) * (number + 0.5) / len(loads) for number in range(len(loads))]
    for place, one in zip(places, loads, strict=True):
        words = f"{one.percent} %" if one.percent <= 100 else f"{one.percent / 100:g} times"
        drawing.text((place, bottom + 20), words, "quiet", size=12, anchor="middle")
    drawing.text(((left + right) / 2, bottom + 38), "of capacity", "quiet", size=11, anchor="middle")
    for colour, of in (("own", lambda one: one.accept), ("second", lambda one: one.outcome)):
        for index, dash in ((1, "5 4"), (0, "")):
            points = [(x, up(_shown_ms(of(one)[index]))) for x, one in zip(places, loads, strict=True)]
            drawing.line(points, colour, width=2, dash=dash)
            for point in points:
                drawing.dot(point, colour, 3)


def _shown_ms(seconds: float) -> float:
    return SLOWEST_MS if math.isinf(seconds) or math.isnan(seconds) else min(SLOWEST_MS, max(FASTEST_MS, seconds * 1000))


def growth(book: Book) -> str:
    """Lines: what is applied a second, and how long reading takes, over the number of reservations."""
    drawing = Drawing(WIDTH, 370, "Rates by size")
    drawing.text((24, 34), "As the data grow", size=17, bold=True)
    words = "Grey: a database of 1,000 reservations on the same servers, measured at the same time."
    drawing.text((24, 54), words, "quiet")
    sizes = [one.reservations for one in book.growth]
    middle = WIDTH / 2
    rates = [[spread(values).median for values in (one.apply, one.apply_beside)] for one in book.growth]
    _size_panel(drawing, sizes, rates, (76, middle - 24), "applied a second", lambda value: f"{value:,.0f}")
    names = list(book.growth[0].read_p99)
    reads = [
        [1000 * max(spread(found[name]).median for name in names) for found in (one.read_p99, one.read_p99_beside)]
        for one in book.growth
    ]
    _size_panel(
        drawing, sizes, reads, (middle + 60, WIDTH - 24), "reading, p99 of the slowest kind, ms", lambda value: f"{value:g}"
    )
    return str(drawing)


def _size_panel(
    drawing: Drawing, sizes: list[int], values: list[list[float]], sides: Point, title: str, worded: Callable[[float], str]
) -> None:
    left, right = sides
    top, bottom = 108.0, 310.0
    steps = round_steps(max(max(pair) for pair in values))
    up = linear(0, steps[-1], bottom, top)
    drawing.text((left, top - 18), title, bold=True)
    for value in steps:
        drawing.line([(left, up(value)), (right, up(value))], "grid")
        drawing.text((left - 8, up(value) + 4), worded(value), "quiet", size=11, anchor="end")
    across = logarithmic(sizes[0], max(sizes[-1], 10 * sizes[0]), left + 20, right - 34)
    for size in sizes:
        drawing.text((across(size), bottom + 20), _power(size), "quiet", size=12, anchor="middle")
    drawing.text(((left + right) / 2, bottom + 40), "reservations", "quiet", size=11, anchor="middle")
    _size_line(drawing, sizes, [pair[1] for pair in values], across, up, "other")
    _size_line(drawing, sizes, [pair[0] for pair in values], across, up, "own")


def _size_line(drawing: Drawing, sizes: Sequence[int], values: Sequence[float], across: Scale, up: Scale, colour: str) -> None:
    points = [(across(size), up(value)) for size, value in zip(sizes, values, strict=True)]
    drawing.line(points, colour, width=2.5)
    for point in points:
        drawing.dot(point, colour)


def _power(size: int) -> str:
    if size >= 1_000_000:
        return f"{size / 1_000_000:g} million"
    return f"{size:,}"
