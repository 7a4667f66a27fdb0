"""The files through which the processes of a host share their metrics, so that a full disk ends nobody.

prometheus_client maps them into memory before they take any room on the disk. Where that is full, whoever writes to such memory
is ended by the system, in the middle of whatever it does. So the room is taken first; where there is none, a process goes on
counting in memory of its own, and what others read of it stands still.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, BinaryIO

from prometheus_client import mmap_dict

ENTRY_BYTES = 40  # that an entry takes at most besides its key: its length, padding, value and time


class CountFile(mmap_dict.MmapedDict):  # type: ignore[misc]
    """One of them."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        super().__init__(filename if read_mode or _has_room(filename) else _in_memory(), read_mode)

    def _init_value(self, key: str) -> None:
        """A new count; if the file has to grow for it and cannot, all of it goes on in memory."""
        is_full = self._used + len(key.encode()) + ENTRY_BYTES > self._capacity
        if is_full and not _is_reserved(self._f.fileno(), 2 * self._capacity):
            self._move()
        super()._init_value(key)

    def _move(self) -> None:
        counted, file = self._m, self._f
        self._f: BinaryIO = open(_in_memory(), "a+b")  # noqa: SIM115  it stays open
        self._f.truncate(self._capacity)
        self._m: Any = mmap.mmap(self._f.fileno(), self._capacity)
        self._m[:] = counted[:]
        counted.close()
        file.close()


def _has_room(filename: str) -> bool:
    """Whether the file has its room on the disk; it is made if it is not there, and does not stay without."""
    try:
        with open(filename, "a+b") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if _is_reserved(file.fileno(), max(size_bytes, mmap_dict._INITIAL_MMAP_SIZE)):
                return True
        if not size_bytes:
            os.unlink(filename)
    except OSError:
        pass
    return False


def _is_reserved(descriptor: int, size_bytes: int) -> bool:
    """True also where a system has no such call."""
    reserve = getattr(os, "posix_fallocate", None)
    if reserve is None or not hasattr(os, "memfd_create"):
        return True
    try:
        reserve(descriptor, 0, size_bytes)
    except OSError:
        return False
    return True


def _in_memory() -> str:
    """The address of a file that no disk holds."""
    return f"/dev/fd/{os.memfd_create('counts')}"
