"""`python -m core.migrations`: bring the database to this release's schema, then end."""

import sys

from core.bootstrap import prepare
from core.errors import AforoError
from core.migrations import upgrade


def main() -> int:
    """Migrate; 1 and one line on stderr when that cannot be done."""
    try:
        revision = upgrade(prepare("migrate"))
    except AforoError as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"The database is at revision {revision}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
