"""What may happen to servers and their disks: killed with all they started, logs torn or put back, disks that are full.

Everything is done to servers that a test has for itself, by pid and by path. What needs root says so and is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.processes import Running, children_of
from tests.support.waiting import until

MOUNT_SECONDS = 30
BALLAST_CHUNK = b"\0" * 65536
HALF_A_COMMAND = b"*1\r\n$5\r\nMULTI\r\n*7\r\n$4\r\nXADD\r\n$17\r\nafo"


class NotPossible(Exception):
    """This fault cannot be made on this machine; the message says what it needs."""


def kill_postgres(postgres: Running) -> None:
    """SIGKILL the postmaster, and wait for its backends: they notice, but could still commit before they do."""
    backends = children_of(postgres.pid)
    postgres.kill()
    until(lambda: not any(_runs(pid) for pid in backends), 30, "the backends have noticed")


def wal_folder(postgres: Running) -> Path:
    """Where Postgres keeps its write-ahead log."""
    command = postgres.program.command
    return Path(command[command.index("-D") + 1]) / "pg_wal"


class AppendOnly:
    """Valkey's append-only log on disk. Change it only while its server is down."""

    def __init__(self, valkey: Running) -> None:
        self.folder = valkey.program.folder / "appendonlydir"

    @property
    def tail(self) -> Path:
        """The file that is being appended to."""
        manifest = (self.folder / "appendonly.aof.manifest").read_text("ascii")
        names = [line.split()[1] for line in manifest.splitlines() if " type i" in line]
        return self.folder / names[-1]

    def size(self) -> int:
        """How long that file is."""
        return self.tail.stat().st_size

    def cut_back_to(self, size: int) -> int:
        """Cut the tail back to its first `size` bytes. How many were lost."""
        lost = self.size() - size
        os.truncate(self.tail, size)
        return lost

    def tear(self) -> None:
        """Leave the beginning of one more command at its end, as a power cut within a write does."""
        with self.tail.open("ab") as file:
            file.write(HALF_A_COMMAND)

    def copy_to(self, folder: Path) -> Path:
        """A copy as a crash at this moment would leave it, also while the server runs (and does not rewrite the log)."""
        return shutil.copytree(self.folder, folder)

    def put_back(self, copy: Path) -> None:
        """Replace the log by an older copy."""
        self.empty()
        shutil.copytree(copy, self.folder)
        _hand_over(self.folder, self.folder.parent.stat())

    def empty(self) -> None:
        """Remove the log whole."""
        shutil.rmtree(self.folder)


class SmallDisk:
    """A file system of a few megabytes under one folder, which can be filled and freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def free_bytes(self) -> int:
        """How much still fits."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave room for no more than so many bytes."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while (room := self.free_bytes() - leave_bytes) > 0:
                file.write(BALLAST_CHUNK[:room])

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Put a small tmpfs under a folder of a server that is down, with what was in it. Raises NotPossible without root."""
    if os.geteuid() != 0:
        raise NotPossible("mounting a small disk needs root")
    owner = folder.stat()
    aside = folder.with_name(folder.name + ".aside")
    shutil.copytree(folder, aside)
    mounted = _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(folder))
    try:
        if mounted.returncode:
            raise NotPossible(f"mounting a small disk is not allowed here: {mounted.stderr.strip()}")
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        _hand_over(folder, owner)
        yield SmallDisk(folder)
    finally:
        if mounted.returncode == 0:
            _run("umount", "--lazy", str(folder))
        shutil.rmtree(aside)


def _hand_over(folder: Path, owner: os.stat_result) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=MOUNT_SECONDS, check=False)


def _runs(pid: int) -> bool:
    shown = _run("ps", "-o", "stat=", "-p", str(pid)).stdout.strip()
    return shown[:1] not in ("", "Z")
