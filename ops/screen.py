"""What `aforo up` shows while it runs: one live screen on a terminal, nothing but lines elsewhere."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ops.client import Client, NoAnswer, key_from_environment
from ops.supervisor import Seen

MEASURE_SECONDS = 1.0
_SAMPLE = re.compile(r"^(aforo_\w+?)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)
SUMMED = ("aforo_accepted_total", "aforo_applied_total", "aforo_mailbox_depth")
LARGEST = ("aforo_mailbox_oldest_seconds",)


def figures(metrics: str) -> dict[str, float]:
    """The few figures shown, from Prometheus's text: summed over labels, or the largest of them."""
    found = dict.fromkeys((*SUMMED, *LARGEST), 0.0)
    for name, value in _SAMPLE.findall(metrics):
        if name in SUMMED:
            found[name] += float(value)
        elif name in LARGEST:
            found[name] = max(found[name], float(value))
    return found


class Screen:
    """The live screen. On a terminal it asks the API for figures once a second, on a thread of its own."""

    def __init__(self, console: Console, origin: str, data_dir: Path) -> None:
        self._console = console
        self._origin = origin
        self._data_dir = data_dir
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="figures", daemon=True)
        self._figures: dict[str, float] = {}
        self._rates = (0.0, 0.0)

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
            self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        if self._live:
            self._live.stop()

    def show(self, children: list[Seen]) -> None:
        """Draw the screen anew, if there is one."""
        if self._live:
            self._live.update(self._drawn(children), refresh=True)

    def _measure(self) -> None:
        client, before, at = Client(self._origin, key_from_environment()), {}, time.monotonic()
        while not self._over.wait(MEASURE_SECONDS):
            try:
                now = figures(client.text("/metrics"))
            except NoAnswer:
                before = {}
                continue
            seconds = time.monotonic() - at
            if before:
                self._rates = tuple(max(0.0, now[name] - before[name]) / seconds for name in SUMMED[:2])  # type: ignore[assignment]
            self._figures, before, at = now, now, time.monotonic()

    def _drawn(self, children: list[Seen]) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("process", "pid", "up for", "restarts"):
            table.add_column(name, justify="left" if name == "process" else "right")
        for child in children:
            state = "restarting" if child.pid is None else str(child.pid)
            table.add_row(child.name, state, _duration(child.seconds), str(child.restarts))
        depth, oldest = self._figures.get(SUMMED[2], 0), self._figures.get(LARGEST[0], 0)
        accepted, applied = self._rates
        pace = f"accepted {accepted:,.0f}/s   applied {applied:,.0f}/s   waiting {depth:,.0f}   oldest {oldest:.1f} s"
        head = Text.assemble(("Aforo ", "bold"), f"{self._origin}   docs: {self._origin}/api/docs/")
        foot = Text(f"Data in {self._data_dir}. Ctrl-C stops everything; the data stay.", style="dim")
        return Group(head, Text(), table, Text(), Text(pace), foot)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
