"""Whether a reply leaves Valkey only after its command is on disk: read from the order of system calls, or from dirty pages.

kill -9 does not test this, because the page cache survives it. strace shows the order itself; where there is none, the kernel
can be asked, after every reply, whether any page of the log has still to be written to disk.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.damage import NotPossible

TRACED = "trace=read,write,writev,fsync,fdatasync"
SHOWN_BYTES = 80
ATTACH_SECONDS = 10
CACHESTAT = 451  # Linux 6.5 or newer, the same number on every architecture
LOG = ".aof"

_begins = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<number>\d+)<(?P<path>[^>]*)>(?P<rest>.*)$")
_resumes = re.compile(r"^(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<rest>.*)$")


@dataclass(slots=True)
class Order:
    """How many replies to scripts left after their command was written and fsynced, and how many before."""

    safe: int = 0
    too_early: int = 0
    _waiting: dict[str, bool] = field(default_factory=dict)  # by connection: whether something of it lies in the log
    _is_dirty: bool = False

    def asked(self, connection: str) -> None:
        """A script call was read."""
        self._waiting[connection] = False

    def appended(self) -> None:
        """The log was written to: with the effects of all calls read before."""
        self._is_dirty = True
        self._waiting = dict.fromkeys(self._waiting, True)

    def synced(self) -> None:
        """The log is on disk as far as it was written."""
        self._is_dirty = False

    def answered(self, connection: str) -> None:
        """A reply left."""
        is_written = self._waiting.pop(connection, None)
        if is_written is None:
            return
        if is_written and not self._is_dirty:
            self.safe += 1
        else:
            self.too_early += 1


def order_of(lines: Iterable[str]) -> Order:
    """The order of reads, appends, fsyncs and replies in the output of strace -f -y.

    A reply counts when its system call begins, an fsync when it has ended.
    """
    order = Order()
    under_way: dict[str, re.Match[str]] = {}
    for line in lines:
        if begins := _begins.match(line):
            if begins["name"].startswith("write"):
                order.appended() if begins["path"].endswith(LOG) else order.answered(begins["path"])
            elif "<unfinished" in begins["rest"]:
                under_way[begins["pid"]] = begins
            else:
                _ended(order, begins, begins["rest"])
        elif (resumes := _resumes.match(line)) and (begins := under_way.pop(resumes["pid"], None)):
            _ended(order, begins, resumes["rest"])
    return order


def _ended(order: Order, call: re.Match[str], rest: str) -> None:
    if call["name"] == "read" and "EVALSHA" in rest:
        order.asked(call["path"])
    elif call["name"] in ("fsync", "fdatasync") and call["path"].endswith(LOG) and rest.rstrip().endswith("= 0"):
        order.synced()


@contextmanager
def traced(pid: int, output: Path) -> Iterator[None]:
    """Write the system calls of a process to `output` meanwhile. Raises NotPossible."""
    if shutil.which("strace") is None:
        raise NotPossible("reading the order of system calls needs strace")
    command = ["strace", "-f", "-y", "-s", str(SHOWN_BYTES), "-e", TRACED, "-o", str(output), "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            raise NotPossible(f"strace may not look at processes here: {said.strip()}")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=ATTACH_SECONDS)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Pages(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted"))


def unwritten_pages(path: Path) -> int:
    """How many pages of a file are not yet on disk. Raises NotPossible."""
    with path.open("rb") as file:
        return _unwritten(file.fileno())


def check_that_pages_tell(folder: Path) -> None:
    """Whether unwritten pages are told of files in this folder: not by old kernels, and not on every file system.

    Raises NotPossible.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
        probe.write(b"probe")
        before = _unwritten(probe.fileno())
        os.fsync(probe.fileno())
        if before == 0 or _unwritten(probe.fileno()):
            raise NotPossible(f"the file system of {folder} does not tell which pages are on disk")


def _unwritten(descriptor: int) -> int:
    if sys.platform != "linux":
        raise NotPossible("which pages of a file are on disk only Linux tells")
    pages = _Pages()
    if ctypes.CDLL(None, use_errno=True).syscall(CACHESTAT, descriptor, ctypes.byref(_Range(0, 0)), ctypes.byref(pages), 0):
        raise NotPossible(f"this kernel does not tell which pages are on disk: {os.strerror(ctypes.get_errno())}")
    return pages.dirty + pages.writeback
