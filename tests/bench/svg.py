"""A small drawing in SVG: shapes, words, and two scales. It follows the reader's light or dark theme by itself.

Written by hand, since three charts are no reason for a plotting library and all that it installs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

# Ink and its quieter shades, then one colour for each thing shown; chosen to be told apart also by the colour-blind.
LIGHT = {"paper": "#ffffff", "ink": "#1f2328", "quiet": "#59636e", "grid": "#e2e7ec", "own": "#0b5fc4", "other": "#aab4bf",
         "second": "#c2410c", "limit": "#7c8894"}  # fmt: skip
DARK = {"paper": "#0d1117", "ink": "#f0f6fc", "quiet": "#9198a1", "grid": "#2a313a", "own": "#58a6ff", "other": "#4b5661",
        "second": "#ff9a4d", "limit": "#8b949e"}  # fmt: skip
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"

Point = tuple[float, float]
Scale = Callable[[float], float]


class Drawing:
    """Shapes in the order in which they are put, each in one of the colours' names."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._size = (width, height)
        self._shapes = [f"<title>{escape(title)}</title>", f'<rect width="{width}" height="{height}" rx="8" class="paper"/>']

    def text(
        self, at: Point, words: str, colour: str = "ink", *, size: float = 13, anchor: str = "start", bold: bool = False
    ) -> None:
        """Words; `at` is on their base line."""
        weight = ' font-weight="600"' if bold else ""
        where = f'x="{at[0]:.1f}" y="{at[1]:.1f}"'
        self._shapes.append(
            f'<text {where} class="{colour}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def box(self, at: Point, width: float, height: float, colour: str) -> None:
        """A filled box."""
        size = f'width="{max(width, 0.5):.1f}" height="{height:.1f}"'
        self._shapes.append(f'<rect x="{at[0]:.1f}" y="{at[1]:.1f}" {size} rx="2" class="{colour}"/>')

    def line(self, points: Sequence[Point], colour: str, *, width: float = 1, dash: str = "") -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._shapes.append(f'<polyline points="{path}" class="line {colour}" stroke-width="{width}"{dashed}/>')

    def dot(self, at: Point, colour: str, radius: float = 3.5) -> None:
        """A filled circle."""
        self._shapes.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" class="{colour}"/>')

    def __str__(self) -> str:
        width, height = self._size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img"'
        style = f"{_rules(LIGHT)}@media (prefers-color-scheme: dark) {{{_rules(DARK)}}}.line{{fill:none}}"
        return "\n".join([f'{head} font-family="{FONT}">', f"<style>{style}</style>", *self._shapes, "</svg>", ""])


def _rules(colours: dict[str, str]) -> str:
    return "".join(f".{name}{{fill:{value}}}.line.{name}{{fill:none;stroke:{value}}}" for name, value in colours.items())


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """From a value to a place, evenly."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """From a value to a place, every factor the same distance."""
    even = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: even(math.log10(max(value, low)))


def round_steps(most: float, count: int = 4) -> list[float]:
    """0 and about `count` round numbers up to at least `most`."""
    rough = most / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.ceil(most / step) + 1)]
