"""Keeps a stack of processes running: starts them in order, starts again what died, with back-off, stops all in reverse.

It knows nothing of what the processes are; ops/up.py says that.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals


@dataclass(frozen=True, slots=True)
class Program:
    """A process to run: how it is started, when it is ready, how it is stopped."""

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    user: int | None = None
    group: int | None = None
    stop_signal: Signals = SIGTERM
    stop_seconds: float = 45.0
    is_ready: Callable[[], bool] | None = field(default=None, compare=False)


def launch(program: Program, log: Path) -> subprocess.Popen[bytes]:
    """Start it, in a session of its own so that a Ctrl-C at the terminal reaches only us; its output goes to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=program.folder,
            env=program.environment,
            user=program.user,
            group=program.group,
            extra_groups=[] if program.user is not None else None,
            umask=0o077,
            start_new_session=True,
        )
