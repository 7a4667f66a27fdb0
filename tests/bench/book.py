"""What was measured, by name: a value for each round. It is what a report is made of, and is kept as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.arithmetic import Spread, spread


@dataclass(slots=True)
class Latency:
    """Open-loop latencies at one load: seconds at p50, p99 and p99.9, infinite where that share had no answer."""

    kind: str
    percent: int  # of capacity
    rate: float
    accept: list[float]
    outcome: list[float]
    refused_share: float = 0.0
    unanswered_share: float = 0.0


@dataclass(slots=True)
class Growth:
    """One size of the data, beside a small database measured at the same time."""

    reservations: int
    sessions: int
    apply: list[float]
    apply_beside: list[float]
    read_p99: dict[str, list[float]]
    read_p99_beside: dict[str, list[float]]
    fill_seconds: float
    bytes: int
    first_read: list[float] = field(default_factory=list)  # of a session that nobody has used so far, p50
    first_read_beside: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Book:
    """All of a run."""

    about: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)
    latencies: list[Latency] = field(default_factory=list)
    memory: list[tuple[str, int, float]] = field(default_factory=list)  # process, how many of it, MB each
    growth: list[Growth] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        """One more value of this name."""
        self.figures.setdefault(name, []).append(value)

    def of(self, name: str) -> Spread | None:
        """What the rounds gave; None if this was not measured."""
        values = self.figures.get(name)
        return spread(values) if values else None

    def ratio(self, name: str, to: str) -> float | None:
        """Of two medians; None if one of them was not measured."""
        found, base = self.of(name), self.of(to)
        return found.median / base.median if found and base and base.median else None

    def save(self, path: Path) -> None:
        """Write it, so that a document can be made of several runs."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")


def load(path: Path) -> Book | None:
    """A run that was saved; None if there is none."""
    try:
        read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    book = Book(read["about"], read["settings"], read["figures"], memory=[tuple(row) for row in read["memory"]])
    book.latencies = [Latency(**row) for row in read["latencies"]]
    book.growth = [Growth(**row) for row in read["growth"]]
    return book
