"""The bench's sums: percentiles, medians with their spread, arrival times of an open loop. Pure, so that tests can check them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DIGITS_MAX = 4


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds measured."""

    median: float
    least: float
    most: float
    rounds: int

    def __str__(self) -> str:
        if self.rounds == 1:
            return figure(self.median)
        return f"{figure(self.median)} ({figure(self.least)} to {figure(self.most)})"


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most of at least one value."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return Spread(median, ordered[0], ordered[-1], len(ordered))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all are not above (nearest rank). Infinity stands for no answer."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """When requests come, in seconds from the start: at random, independent of all answers, `rate` a second."""
    chance = random.Random(seed)
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


def figure(value: float) -> str:
    """A number as people read it: three digits that count, thousands apart."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, DIGITS_MAX)}f}"
