"""How many partitions there are, as Postgres has it, and whether that is being changed: the row that every process goes by.

What Redis says of it (`aforo:{p}:lanes`) only stops whoever has not read this row since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.engine import Engine

from core.errors import MissingRight, NotMigrated, NotOwner, SettingsConflict
from core.grouping import Grouped
from core.lanes import Lanes
from core.pgerrors import translated
from core.transaction import LOCK_NAMESPACE

LOOKS_AT_ONCE = 256
REPARTITION_LOCK = -2  # beside the partitions' locks, which count from 0, and the migrations'
READ = "SELECT partitions, moving_to, epoch FROM deployment"
INTEND = "UPDATE deployment SET moving_to = %s, epoch = epoch + 1"
SWITCH = "UPDATE deployment SET partitions = moving_to WHERE moving_to IS NOT NULL"
END = "UPDATE deployment SET moving_to = NULL"
TRY_LOCK = "SELECT pg_try_advisory_lock(%s, %s)"
UNLOCK = "SELECT pg_advisory_unlock(%s, %s)"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """So many partitions. `moving_to`: as many as there are to be, until the door is open again; they may be the same by then."""

    partitions: int
    moving_to: int | None = None
    epoch: int = 1

    @property
    def lanes(self) -> Lanes:
        """For whoever goes by it."""
        return Lanes(self.partitions, self.epoch)

    @property
    def is_moving(self) -> bool:
        """Whether nothing is accepted, or soon will not be."""
        return self.moving_to is not None


class Arrangements:
    """Blocking. Raises Unavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self) -> Arrangement:
        """As it is now. Raises NotMigrated."""
        with translated(), self._engine.connect() as connection:
            row = connection.exec_driver_sql(READ).one_or_none()
        if row is None:
            raise NotMigrated
        return Arrangement(*row)

    def intend(self, partitions: int) -> None:
        """Write down that there are to be so many: a change of its own, also where it is given up. Raises NotOwner."""
        try:
            with translated(), self._engine.begin() as connection:
                connection.exec_driver_sql(INTEND, (partitions,))
        except MissingRight as exc:
            raise NotOwner("This needs the role that owns the tables: set AFORO_OWNER_URL.") from exc

    def switch(self) -> None:
        """From now on there are as many as were to be."""
        with translated(), self._engine.begin() as connection:
            connection.exec_driver_sql(SWITCH)

    def end(self) -> None:
        """The change is over."""
        with translated(), self._engine.begin() as connection:
            connection.exec_driver_sql(END)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else changes it meanwhile. Raises SettingsConflict when somebody does."""
        with translated(), self._engine.connect() as connection:
            if not connection.exec_driver_sql(TRY_LOCK, (LOCK_NAMESPACE, REPARTITION_LOCK)).scalar_one():
                raise SettingsConflict("Somebody else is changing the number of partitions.")
            connection.commit()
            try:
                yield
            finally:
                connection.exec_driver_sql(UNLOCK, (LOCK_NAMESPACE, REPARTITION_LOCK))
                connection.commit()


class SharedLook:
    """For an event loop: whoever asks at the same time shares a look, and the process goes by what is found."""

    def __init__(self, read: Callable[[], Awaitable[Arrangement]], lanes: Lanes) -> None:
        """`lanes`: what the process goes by, which is changed."""
        self.lanes = lanes
        self._read = read
        self._grouped: Grouped[None, Arrangement] = Grouped(self._looked, LOOKS_AT_ONCE)

    async def __call__(self) -> Arrangement:
        """As it is now, and whether it is being changed."""
        return await self._grouped(None)

    async def found_others(self, before: int) -> bool:
        """Whether there are others by now than those that were looked into."""
        await self()
        return self.lanes.now != before

    async def _looked(self, asks: Sequence[None]) -> Sequence[Arrangement]:
        found = await self._read()
        self.lanes.now, self.lanes.epoch = found.partitions, found.epoch
        return [found] * len(asks)
