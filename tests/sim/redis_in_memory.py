"""Redis in memory: the scripts of core/lua, written again in Python, under the real `Mailbox`, `Door` and `Projections`.

Time is what the test says. `at(place)` is called before each call: what it raises is the fault, and what it returns, if
anything, is raised after the call has had its effect: a lost reply. test_stand_ins.py holds it to Valkey's answers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from core.mailbox import script

At = Callable[[str], BaseException | None]
Key = dict[str, Any]  # a hash, a head by its fields, or a stream by entry id
HEAD_FIELDS = "qfouvacrwls"
JOB_ID = 36  # characters
SOURCES = {name: script(name) for name in ("accept", "take", "name", "publish", "head", "changed", "look")}


class MemoryRedis:
    """Strings, hashes and streams with their expiry; see core/lua/accept.lua for what they hold."""

    def __init__(self, now_ms: Callable[[], int], at: At = lambda place: None) -> None:
        self.values: dict[str, Any] = {}
        self.expiries: dict[str, int] = {}
        self.announced: list[str] = []  # job ids, as PUBLISH told them
        self.now_ms = now_ms
        self._at = at
        self._last_id = (0, 0)

    def saved(self) -> tuple[dict[str, Any], dict[str, int]]:
        """Everything, as an AOF would hold it."""
        return {name: copy.copy(value) for name, value in self.values.items()}, dict(self.expiries)

    def put_back(self, saved: tuple[dict[str, Any], dict[str, int]]) -> None:
        """Be as it was then."""
        self.values = {name: copy.copy(value) for name, value in saved[0].items()}
        self.expiries = dict(saved[1])

    def get(self, name: str) -> Any:
        """A key's value, or None."""
        until = self.expiries.get(name)
        if until is not None and until <= self.now_ms():
            self._delete(name)
        return self.values.get(name)

    def delete(self, *names: str) -> None:
        """DEL."""
        self._at("forgive")
        self._delete(*names)

    def set(self, name: str, value: str, ex: int) -> None:
        """SET."""
        self._at("doubt")
        self._set(name, value, ex * 1000)

    def hset(self, name: str, field: str, value: str) -> None:
        """HSET."""
        lost = self._at("narrow")
        self._hash(name)[field] = value
        if lost is not None:
            raise lost

    def hdel(self, name: str, field: str) -> None:
        """HDEL."""
        self._at("forgive")
        self._hdel(name, field)

    def hincrby(self, name: str, field: str, by: int) -> None:
        """HINCRBY."""
        self._at("forgive")
        self._hash(name)[field] = self._hash(name).get(field, 0) + by

    def pipeline(self, transaction: bool) -> Pipeline:
        """Calls to be made together."""
        return Pipeline(self, self.now_ms)

    def script_load(self, source: str) -> str:
        """SCRIPT LOAD."""
        return source

    def register_script(self, source: str) -> Callable[..., Any]:
        """The script with this text, behind `at`."""
        name = next(name for name, text in SOURCES.items() if text == source)
        run = getattr(self, name)

        def call(keys: Sequence[str], args: Sequence[Any]) -> Any:
            lost = self._at(name)
            answer = run(keys[0][: -len("mailbox")], keys[0], *args)
            if lost is not None:
                raise lost
            return answer

        return call

    def accept(self, prefix: str, mailbox: str, *arguments: Any) -> list[Any]:
        """accept.lua"""
        limit, bell_ms, who, ttl, told, digits, *knocks = arguments
        are_shown = "2" in digits or "3" in digits
        shown = [self._text(session) for session in dict.fromkeys(knocks[1::4])] if are_shown else []
        answers: list[tuple[Any, Any]] = []
        accepted = set()
        for job, session, record, command in zip(*[iter(knocks)] * 4, strict=True):
            known, head = self.get(job), self.get(session)
            if known and not self._is_doubted(prefix, job, known):
                answers.append((b"K", known))
            elif self.get(f"{prefix}lanes") == "shut":
                answers.append((b"S", b""))
            elif digits[len(answers)] in "13" and (known or (head and head["f"] > self.now_ms())):
                answers.append((b"L", b""))
            elif len(self.get(mailbox) or ()) >= limit:
                answers.append((b"F", b""))
            elif not head:
                answers.append((b"H", b""))
            else:
                head["q"] += 1
                entry = self._xadd(mailbox, head["q"], command)
                numbers = (head["q"], int(entry.partition("-")[0]))
                self._set(job, record + b"".join(map(msgspec.msgpack.encode, numbers)))
                self.expiries.pop(session, None)
                accepted.add(job)
                answers.append(numbers)
        before = self.get(f"{prefix}total:{who}") or 0
        rung = bool(accepted) and self.get(f"{prefix}bell") is None
        grown = len(accepted) if before >= told else 0
        if grown:
            self._set(f"{prefix}total:{who}", before + grown, ttl * 1000)
        if rung:
            self._set(f"{prefix}bell", "1", bell_ms)
        depth = len(self.get(mailbox) or ())
        told = [value for answer in answers for value in answer]
        return [depth, self.get(f"{prefix}pace") or b"0", int(rung), told, shown, before, grown]

    def take(self, prefix: str, mailbox: str, limit: int, way: str, _is_read: int) -> list[Any]:
        """take.lua, of which nobody reads anything by himself"""
        waiting = (self.get(mailbox) or {}).items()
        if way not in ("", "free"):
            if (self.get(f"{prefix}trial") or {}) != {"until": way}:
                return [b"", b"", [], b""]
            waiting = [(entry, held) for entry, held in waiting if _entry_id(entry) > _entry_id(way)]
        found = list(islice(waiting, limit))
        rows = [[entry.encode(), [b"s", b"%d" % seq, b"c", command]] for entry, (seq, command) in found]
        if not found:
            if not way:
                self._delete(f"{prefix}trial", f"{prefix}bell")
            return [b"", b"", rows, b""]
        trial, first = self.get(f"{prefix}trial") or {}, _entry_id(found[0][0])
        suspect, near = trial.get("until"), trial.get("near", "")
        if suspect and first <= _entry_id(suspect):
            if way:
                return [b"", b"", [], b""]
            near = near if near and first <= _entry_id(near) else ""
            doubted = _entry_id(near or suspect)
            return [suspect.encode(), near.encode(), [row for row in rows if _entry_id(row[0].decode()) <= doubted], b""]
        if suspect:
            self._delete(f"{prefix}trial")
        self._hash(f"{prefix}trial")["until"] = found[-1][0]
        return [b"", b"", rows, b""]

    def look(self, prefix: str, mailbox: str, keep_ms: int) -> list[int]:
        """look.lua"""
        if keep_ms:
            self._set(f"{prefix}bell", "1", keep_ms)
        waiting = self.get(mailbox) or {}
        if not waiting:
            return [0, 0, 0]
        oldest = _entry_id(next(iter(waiting)))[0]
        return [len(waiting), self.now_ms() - oldest, int(self.get(f"{prefix}trial") is not None)]

    def name(self, prefix: str, _mailbox: str, entry: str) -> int:
        """name.lua"""
        trial = self._hash(f"{prefix}trial")
        deaths = trial.get("deaths", 0) + 1 if trial.get("name") == entry else 0
        trial |= {"name": entry, "deaths": deaths}
        return deaths

    def publish(self, prefix: str, mailbox: str, *arguments: Any) -> int:
        """publish.lua"""
        rest = iter(arguments)
        ttl, idle, bell_ms, pace, _channel, mark, keep_bell = islice(rest, 7)
        waiting = self.get(mailbox) or {}
        removed = [waiting.pop(entry, None) for entry in list(islice(rest, next(rest)))]
        removed = [entry for entry in removed if entry is not None]
        current, replace = {}, []  # sessions, and jobs whatever they say
        for _ in range(next(rest)):
            session, text, lift, lifted, jobs = islice(rest, 5)
            current[session] = self._put_counts(session, bool(removed), not waiting, idle, text, lift, lifted)
            replace += [current[session]] * jobs
        self._changed(prefix)
        count, ids = next(rest), next(rest)
        told = list(zip(*[islice(rest, 2 * count)] * 2, strict=True))
        assert list(islice(rest, 2)) == ["EX", ttl]
        replace += [False] * (count - len(replace))
        queued = {job for job, _ in told if (self.get(job) or b"")[:1] == b"q"}
        for (job, record), is_current in zip(told, replace, strict=True):
            if is_current or job in queued:
                self._set(job, record, ttl * 1000)
        self.announced += [ids[start : start + JOB_ID] for start in range(0, len(ids), JOB_ID)]
        for job, session, record in zip(*[islice(rest, 3 * next(rest))] * 3, strict=True):
            if current[session] and self.get(job) is not None:
                self.values[job] = record
            elif current[session] is None:
                self._delete(job)
        if not mark:
            self._hdel(f"{prefix}trial", "name", "deaths")
        elif (self.get(f"{prefix}trial") or {}).get("until", mark) == mark:
            self._delete(f"{prefix}trial")
        self._set(f"{prefix}pace", pace.encode(), 60_000)
        if waiting or keep_bell:
            self._set(f"{prefix}bell", "1", bell_ms)
        else:
            self._delete(f"{prefix}bell")
        return len(waiting)

    def head(
        self, prefix: str, _mailbox: str, session: int, text: str, version: int, last_seq: int, idle: int,
        first_accepted_ms: int, job_ttl_ms: int, lanes: str,
    ) -> int:  # fmt: skip
        """head.lua"""
        if self.get(f"{prefix}lanes") not in (None, lanes):
            return -1
        head = self.get(f"{prefix}s:{session}")
        is_cold, new = head is None, self.get(f"{prefix}born") is None
        if head is None:
            head = {"q": last_seq, "f": 0, "o": 0, "u": 0, "v": -1}
            self._set(f"{prefix}s:{session}", head, idle * 1000)
        if not is_cold and version > head["v"]:
            self._changed(prefix)
        if version > head["v"]:
            head |= _from_version_on(text)
        if new:
            self._set(f"{prefix}born", self.now_ms())
        born = self.get(f"{prefix}born")
        if is_cold and 0 < first_accepted_ms < born:
            head["f"] = born + job_ttl_ms
        return int(new)

    def changed(self, prefix: str, _mailbox: str) -> None:
        """changed.lua"""
        self._changed(prefix)

    def _changed(self, prefix: str) -> None:
        self.values[f"{prefix}changes"] = self.values.get(f"{prefix}changes", self.now_ms() * 1000 - 1) + 1

    def _is_doubted(self, prefix: str, job: str, known: bytes) -> bool:
        if known[:1] != b"d" or self.get(f"{prefix}doubt") is None:
            return False
        return self.expiries.get(job, 0) <= self.expiries[f"{prefix}doubt"]

    def _text(self, name: str) -> bytes | None:
        head = self.get(name)
        return None if head is None else " ".join([str(head[field]) for field in HEAD_FIELDS]).encode()

    def _put_counts(self, key: str, removed: bool, empty: bool, idle: int, text: str, lift: int, lifted: int) -> bool | None:
        head = self.get(key)
        if head is None:
            return None
        if removed and lift > 0 and lifted <= head["q"]:
            self._lift(head, key, lift, lifted)
        told = _from_version_on(text)
        if told["v"] < head["v"]:
            return False
        head |= told
        if head["q"] == head["a"]:
            self.expiries[key] = self.now_ms() + idle * 1000
            if empty:
                head |= {"o": 0, "u": 0}
        elif head["q"] > head["a"]:
            self.expiries.pop(key, None)
        return True

    def _lift(self, head: Key, key: str, lift: int, lifted: int) -> None:
        ends, done = ([int(number) for number in str(head[field]).split(",") if head["u"]] for field in "uo")
        at = next((index for index, end in enumerate(ends) if lifted <= end), len(ends))
        more = lift - (done[at] if at < len(ends) else 0)
        is_last = bool(ends) and head["q"] == ends[-1] + done[-1]
        if more == 0 or (more < 0 and not (is_last and at == len(ends) - 1)):
            return
        if more > 0:
            self.expiries.pop(key, None)
            if not (is_last and at < len(ends)):
                ends.append(head["q"])
                done.append(0)
        done[at:] = [share + more for share in done[at:]]
        head |= {"q": head["q"] + more, "o": ",".join(map(str, done)), "u": ",".join(map(str, ends))}

    def _xadd(self, mailbox: str, seq: int, command: bytes) -> str:
        ms, number = self._last_id
        now = max(ms, self.now_ms())
        self._last_id = (now, number + 1 if now == ms else 0)
        entry = f"{self._last_id[0]}-{self._last_id[1]}"
        self._hash(mailbox)[entry] = (seq, command)
        return entry

    def _hash(self, name: str) -> Key:
        found = self.get(name)
        if found is None:
            found = self.values[name] = {}
        return found

    def _hdel(self, name: str, *fields: str) -> None:
        found = self.get(name) or {}
        for field in fields:
            found.pop(field, None)
        if not found:
            self._delete(name)

    def _set(self, name: str, value: Any, px: int | None = None) -> None:
        self._delete(name)
        self.values[name] = value
        if px is not None:
            self.expiries[name] = self.now_ms() + px

    def _delete(self, *names: str) -> None:
        for name in names:
            self.values.pop(name, None)
            self.expiries.pop(name, None)


class Pipeline:
    """What `Door` and `Mailbox.ages_ms` send in one round trip."""

    def __init__(self, redis: MemoryRedis, now_ms: Callable[[], int]) -> None:
        self._redis = redis
        self.now_ms = now_ms
        self._calls: list[Callable[[], Any]] = []

    def time(self) -> None:
        """TIME."""
        self._calls.append(lambda: (self.now_ms() // 1000, self.now_ms() % 1000 * 1000))

    def xrange(self, name: str, count: int) -> None:
        """XRANGE - +, of which only the ids are looked at."""
        self._calls.append(lambda: [(entry.encode(), {}) for entry in islice(self._redis.get(name) or (), count)])

    def evalsha(self, source: str, _keys: int, key: str, *args: Any) -> None:
        """EVALSHA; a script's text is its hash here."""
        self._calls.append(partial(self._redis.register_script(source), [key], args))

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """All of it; nothing here fails by itself."""
        return [call() for call in self._calls]


class AsyncMemoryRedis:
    """The same for an event loop, which it never waits for."""

    def __init__(self, redis: MemoryRedis) -> None:
        self._redis = redis

    async def script_load(self, source: str) -> str:
        """SCRIPT LOAD."""
        return source

    def register_script(self, source: str) -> Callable[..., Any]:
        """The script with this text."""
        call = self._redis.register_script(source)

        async def run(keys: Sequence[str], args: Sequence[Any]) -> Any:
            return call(keys, args)

        return run

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """EVALSHA; a connection that breaks breaks it all."""
        return [self._redis.register_script(source)([name], args) for _, source, _, name, *args in commands]


def _from_version_on(text: str) -> Key:
    *numbers, state = text.split()
    return {**dict(zip("vacrwl", map(int, numbers), strict=True)), "s": state}


def _entry_id(entry: str) -> tuple[int, ...]:
    return tuple(map(int, entry.split("-")))
