"""Answers that were rendered and may be sent again: as many bytes as are allowed, the ones used last, none for long.

Whether one may still be sent is not the shelf's to say: see `Page.serves`, and core/freshness.py for why that is enough.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from core.freshness import Reading

KEPT_SECONDS: Final = 30.0  # bounds what no word tells of: rows changed by hand, or by a release that moves no words
CACHING: Final = "private, no-cache"  # it may name people, and depends on who asks
OVERHEAD_BYTES: Final = 1500  # of a page beside its body: objects, headers, its place


def etag_of(body: bytes) -> str:
    """What names these very bytes."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()


class Fields:
    """Header fields, as pairs and as they are sent."""

    __slots__ = ("lines", "pairs")

    def __init__(self, *pairs: tuple[bytes, bytes]) -> None:
        self.pairs = pairs
        self.lines = b"".join([b"%b: %b\r\n" % pair for pair in pairs])


class Page:
    """A rendered body with all that is needed to send it, and what it was read from.

    `reading`: one that ended before the body's rows were read. `partition`: the only one whose changes can change the page; None:
    every one can. `version`: that of its session. `until`: when time by itself may change it, on the monotonic clock.
    """

    __slots__ = ("_epoch", "_number", "_words", "body", "etag", "fields", "partition", "short_fields", "until", "version")

    def __init__(
        self, body: bytes, reading: Reading, partition: int | None, version: int = 0, until: float | None = None
    ) -> None:
        self.body = body
        self.etag = etag_of(body)
        self.partition = partition
        self.version = version
        kept_until = time.monotonic() + KEPT_SECONDS
        self.until = kept_until if until is None else min(until, kept_until)
        self.short_fields = Fields((b"etag", f'"{self.etag}"'.encode()), (b"cache-control", CACHING.encode()))  # of a 304
        size = (b"content-length", str(len(body)).encode())
        self.fields = Fields(*self.short_fields.pairs, size, (b"content-type", b"application/json"))
        self.renew(reading)

    @property
    def bytes(self) -> int:
        """What it takes on the shelf, about."""
        return len(self.body) + OVERHEAD_BYTES

    def renew(self, reading: Reading) -> None:
        """It was found to hold all that this reading stands for."""
        self._epoch, self._number = reading.epoch, reading.number
        self._words = reading.words if self.partition is None else reading.words[self.partition]

    def serves(self, reading: Reading, now: float) -> bool:
        """Whether it holds all that a request was told of which arrived before this reading began."""
        if now >= self.until or self._epoch != reading.epoch:
            return False
        if self._number >= reading.number:
            return True
        if self.partition is None:
            return self._words == reading.words and reading.is_whole
        word = reading.words[self.partition]
        return self._words == word and word is not None

    def may_serve(self, reading: Reading, now: float) -> bool:
        """Whether it could yet, if its session's version is the same."""
        return now < self.until and self._epoch == reading.epoch


class Shelf:
    """Pages by name; the least lately used give way."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pages: OrderedDict[Hashable, Page] = OrderedDict()
        self._is_sweeping = False
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._pages)

    def get(self, name: Hashable) -> Page | None:
        """The page of this name."""
        page = self._pages.get(name)
        if page is not None:
            self._pages.move_to_end(name)
        return page

    def put(self, name: Hashable, page: Page) -> None:
        """Keep a page, unless it is larger than all there is room for."""
        self.drop(name)
        if page.bytes > self._limit_bytes:
            return
        self._pages[name] = page
        self.bytes += page.bytes
        while self.bytes > self._limit_bytes:
            self.drop(next(iter(self._pages)))
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(KEPT_SECONDS, self._sweep)

    def drop(self, name: Hashable) -> None:
        """Keep it no longer."""
        page = self._pages.pop(name, None)
        if page is not None:
            self.bytes -= page.bytes

    def clear(self) -> None:
        """Keep nothing."""
        self._pages.clear()
        self.bytes = 0

    def _sweep(self) -> None:
        """What nobody may be sent any more is not to lie in memory either."""
        now = time.monotonic()
        for name in [name for name, page in self._pages.items() if page.until <= now]:
            self.drop(name)
        self._is_sweeping = bool(self._pages)
        if self._is_sweeping:
            asyncio.get_running_loop().call_later(KEPT_SECONDS, self._sweep)
