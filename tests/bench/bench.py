"""What every measurement gets: the stage, the load, the book, and how much time there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.book import Book
from tests.bench.load import Load
from tests.bench.stage import Stage
from tests.bench.workload import HOT, MANY, ZIPF


@dataclass(frozen=True, slots=True)
class Size:
    """How long a run takes. `kinds`: over which sessions the peers are measured, `loads`: in percent of capacity."""

    name: str
    rounds: int
    seconds: int
    part_rounds: int
    part_seconds: int
    latency_seconds: int
    idle_seconds: int
    kinds: tuple[str, ...]
    loads: dict[str, tuple[int, ...]]
    workers: tuple[int, ...]


FULL = Size("full", 3, 5, 2, 4, 8, 8, (HOT, MANY, ZIPF), {HOT: (10, 50, 80, 300), MANY: (10, 50, 80, 300)}, (1, 2, 4))
QUICK = Size("quick", 1, 2, 1, 2, 3, 3, (HOT, MANY), {MANY: (50, 300)}, (1, 2))


@dataclass(slots=True)
class Bench:
    """One run."""

    stage: Stage
    load: Load
    book: Book
    size: Size
    seed: int
    say: Callable[[str], None]

    def note(self, name: str, value: float, unit: str = "/s") -> None:
        """Keep a value, and show it."""
        self.book.add(name, value)
        self.say(f"  {name:<28} {value:>12,.1f} {unit}")
