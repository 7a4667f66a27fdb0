"""DATA_DIR/stack.json: what a running `aforo up` tells other commands, and the next `up`, about itself.

Written whole under another name and renamed, so that nobody reads half of it; only its owner may read it, since the URLs
hold passwords.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path


class BrokenStackFile(Exception):
    """The file is there, but is not one that `aforo up` wrote."""


@dataclass(frozen=True, slots=True)
class StackFile:
    """Addresses, and the pid of every process by name. `started` tells a process from a later one of the same pid.

    `database_url` and `redis_url` are the app's; `owner_url` and `redis_owner_url`, where they are known, for what only
    the owners may do.
    """

    api: str
    database_url: str
    redis_url: str
    owner_url: str = ""
    redis_owner_url: str = ""
    pids: dict[str, int] = field(default_factory=dict)
    started: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Put it in place."""
        making = path.with_name(f"{path.name}.{os.getpid()}")
        making.unlink(missing_ok=True)
        with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        making.replace(path)


def read(path: Path) -> StackFile | None:
    """The file, or None if there is none. Raises BrokenStackFile."""
    try:
        return StackFile(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as exc:
        raise BrokenStackFile(f"{path} cannot be read: {exc}. Without it no running stack is found; remove it.") from exc
