"""Reading the order of system calls: a reply before its command is on disk is found, whatever lies between."""

from __future__ import annotations

import pytest

from tests.support.syscalls import order_of

ASKED = '7 read(10<socket:[1]>, "*14\\r\\n$7\\r\\nEVALSHA\\r\\n"..., 16386) = 674'
LOOKED = '7 read(11<socket:[2]>, "*2\\r\\n$5\\r\\nHMGET\\r\\n"..., 16386) = 92'
APPENDED = '7 write(9</data/appendonlydir/appendonly.aof.1.incr.aof>, "*1\\r\\n$5\\r\\nMULTI"..., 869) = 869'
SYNCED = "7 fdatasync(9</data/appendonlydir/appendonly.aof.1.incr.aof>) = 0"
ANSWERED = '7 writev(10<socket:[1]>, [{iov_base="*5\\r\\n", iov_len=23}], 1) = 23'
LOOK_ANSWERED = '7 write(11<socket:[2]>, "*8\\r\\n"..., 65) = 65'
SYNC_BEGINS = "8 fdatasync(9</data/appendonlydir/appendonly.aof.1.incr.aof> <unfinished ...>"
SYNC_ENDS = "8 <... fdatasync resumed>) = 0"


@pytest.mark.parametrize(
    ("lines", "safe", "too_early"),
    [
        pytest.param([ASKED, APPENDED, SYNCED, ANSWERED], 1, 0, id="in order"),
        pytest.param([ASKED, APPENDED, ANSWERED, SYNCED], 0, 1, id="answered before the fsync"),
        pytest.param([ASKED, ANSWERED, APPENDED, SYNCED], 0, 1, id="answered before it was written"),
        pytest.param([ASKED, APPENDED, SYNC_BEGINS, SYNC_ENDS, ANSWERED], 1, 0, id="an fsync in two parts"),
        pytest.param([ASKED, APPENDED, SYNC_BEGINS, ANSWERED, SYNC_ENDS], 0, 1, id="answered within the fsync"),
        pytest.param([ASKED, APPENDED, SYNCED.replace("= 0", "= -1 EIO"), ANSWERED], 0, 1, id="an fsync that failed"),
        pytest.param([ASKED, APPENDED, SYNCED, APPENDED, ANSWERED], 0, 1, id="written again before the reply"),
        pytest.param([LOOKED, LOOK_ANSWERED, ASKED, LOOKED, LOOK_ANSWERED], 0, 0, id="reads and unanswered calls do not count"),
    ],
)
def test_replies_are_told_apart_by_when_they_left(lines: list[str], safe: int, too_early: int) -> None:
    order = order_of(lines)
    assert (order.safe, order.too_early) == (safe, too_early)
