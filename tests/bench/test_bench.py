"""The bench's own sums, requests, tables and charts. What it measures is nobody's promise; that it measures rightly is."""

from __future__ import annotations

import asyncio
import math
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ops import verify
from tests.bench import charts, growth, report
from tests.bench.arithmetic import arrivals, figure, percentile, spread
from tests.bench.book import Book, Growth, Latency, load
from tests.bench.data import Block, Books
from tests.bench.generator import Closed, Open
from tests.bench.lines import status_of
from tests.bench.peers.transaction import pgbench_script
from tests.bench.targets import Judged, judge
from tests.bench.workload import MANY, ZIPF, batches, order_of, reserving
from tests.support.stack import Deployment

SEED = 7


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.0, 1), (0.01, 1), (0.011, 2)]
)
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(share: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_requests_without_an_answer_count_as_the_slowest() -> None:
    latencies = [0.001] * 98 + [math.inf] * 2
    assert (percentile(latencies, 0.5), percentile(latencies, 0.98), percentile(latencies, 0.99)) == (0.001, 0.001, math.inf)
    assert math.isnan(percentile([], 0.5))


def test_rounds_are_told_by_their_median_least_and_most() -> None:
    assert str(spread([4000, 1000, 2000])) == "2,000 (1,000 to 4,000)"
    assert spread([1, 2, 3, 10]).median == 2.5
    assert str(spread([5])) == "5.00"


@pytest.mark.parametrize(
    ("value", "shown"), [(12345.6, "12,346"), (99.94, "99.9"), (1.5, "1.50"), (0.0312, "0.0312"), (0.00009, "0.0001"), (0, "0")]
)
def test_numbers_are_shown_with_three_digits_that_count(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_arrivals_of_an_open_loop_are_random_on_average_at_the_rate_and_the_same_for_a_seed() -> None:
    times = list(arrivals(1000, 10, SEED))
    assert times == list(arrivals(1000, 10, SEED)) != list(arrivals(1000, 10, SEED + 1))
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 10
    assert 9_600 < len(times) < 10_400
    gaps = [after - before for before, after in pairwise(times)]
    assert 0.34 < sum(gap > 0.001 for gap in gaps) / len(gaps) < 0.40  # of exponential gaps 1/e are above the average


def test_sessions_are_chosen_evenly_or_by_zipfs_law() -> None:
    even = Counter(order_of(MANY, 100_000, 1000, SEED))
    assert len(even) == 1000
    assert max(even.values()) < 3 * min(even.values())
    skewed = Counter(order_of(ZIPF, 100_000, 10_000, SEED))
    assert 1.9 < skewed[100_000] / skewed[100_001] < 2.4  # 2 ** 1.1
    assert max(skewed) <= 109_999


def test_requests_are_whole_http_and_name_everybody_once() -> None:
    make = reserving([100_000, 100_001], "Prefer: wait=10").maker(0)
    first, second = make(), make()
    assert first.startswith(b"POST /api/sessions/100000/reserve/ HTTP/1.1\r\n")
    assert second.startswith(b"POST /api/sessions/100001/reserve/ HTTP/1.1\r\n")
    assert b'"email":"guest-000000002@example.org"' in second
    for request in (first, batches([100_000], 3).maker(0)()):
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")


def test_pgbench_carries_out_the_peers_own_statements() -> None:
    script = pgbench_script("random(1, 10)", at_once=False)
    assert script.startswith("\\set session random(1, 10)\n")
    assert "FOR UPDATE \\gset" in script
    assert ":seq" in script
    assert "%(" not in script + pgbench_script("1", at_once=True)


class Server:
    """Answers 202 after a delay, which `delay(n)` tells for the n-th request; it takes one at a time from each connection."""

    def __init__(self, delay: Callable[[int], float] = lambda n: 0.0) -> None:
        self._delay = delay
        self.seen_at: list[float] = []

    @property
    def seen(self) -> int:
        """How many requests came."""
        return len(self.seen_at)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
                await reader.readexactly(length)
                self.seen_at.append(time.monotonic())
                if delay := self._delay(self.seen):
                    await asyncio.sleep(delay)
                writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def load_on(server: Server, loop: type[Closed | Open], **task: Any) -> Any:
    """Run one of the generator's loops against it."""

    async def both() -> Any:
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        requests = reserving([100_000])
        common = {"url": url, "template": requests.template, "order": [100_000], "first_number": 0}
        run = loop({**common, **task})
        await asyncio.to_thread(run.carry_out)
        listening.close()
        return run

    return asyncio.run(both())


def open_task(rate: float, seconds: float, connections_max: int, abandon: bool = False) -> dict[str, Any]:
    waiting = reserving([100_000], "Prefer: wait=10").template
    return {
        "rate": rate, "seconds": seconds, "seed": SEED, "connections": 1, "connections_max": connections_max, "half": 500,
        "waiting_template": waiting, "waiting_share": 0.0, "grace_seconds": 5.0, "abandon": abandon,
    }  # fmt: skip


def test_a_closed_loop_counts_every_answer() -> None:
    server = Server()
    run = load_on(server, Closed, connections=4, seconds=0.2)
    assert run.statuses["202"] == server.seen == len(run.latencies["plain 202"]) > 4
    assert run.broken == 0


def test_an_open_loop_sends_all_that_is_due_and_nothing_before_its_time() -> None:
    server = Server(lambda n: 0.02)
    run = load_on(server, Open, **open_task(1000, 0.5, connections_max=100))
    due = list(arrivals(1000, 0.5, SEED))
    assert run.statuses == {"202": len(due)} == {"202": server.seen}
    start = run.started
    assert all(seen - start >= at for seen, at in zip(server.seen_at, due, strict=True))
    assert run.sending_seconds >= due[-1]
    told = list(zip(run.latencies["plain 202"], run.service["plain 202"], strict=True))
    assert all(whole >= since_sent >= 0.02 for whole, since_sent in told)


def test_a_stall_shows_in_all_requests_that_were_due_meanwhile() -> None:
    """The server stands still for 300 ms once, on the only connection: in a closed loop one request would tell of it."""
    run = load_on(Server(lambda n: 0.3 if n == 10 else 0.0), Open, **open_task(200, 0.5, connections_max=1))
    latencies, due = run.latencies["plain 202"], list(arrivals(200, 0.5, SEED))
    assert len(latencies) == len(due)
    from_sending = sum(latency > 0.1 for latency in run.service["plain 202"])
    assert sum(latency > 0.1 for latency in latencies) > from_sending + 20 > 20
    over = due[9] + 0.3  # of the stall at the earliest: the tenth request did not go before it was due
    met = [(at, latency) for at, latency in zip(due, latencies, strict=True) if due[9] <= at < over]
    assert len(met) > 40
    assert all(latency >= over - at for at, latency in met)


def test_a_server_that_stands_still_is_met_by_all_lines() -> None:
    """It reads from nobody for 300 ms: more lines are opened, and every request that was due waits until it is over."""

    def stop(n: int) -> float:
        if n == 10:
            time.sleep(0.3)
        return 0.0

    run = load_on(Server(stop), Open, **open_task(200, 0.5, connections_max=100))
    due = list(arrivals(200, 0.5, SEED))
    met = [latency for at, latency in zip(due, run.latencies["plain 202"], strict=True) if due[9] < at < due[9] + 0.2]
    assert len(met) > 25
    assert min(met) > 0.09
    assert len(run.lines) == 0


def test_what_could_not_be_sent_before_the_end_is_told() -> None:
    run = load_on(Server(lambda n: 0.05), Open, **open_task(200, 0.3, connections_max=1, abandon=True))
    assert run.unsent > 20
    assert run.unsent + len(run.latencies["plain 202"]) == sum(1 for _ in arrivals(200, 0.3, SEED))


def test_a_line_that_the_server_closes_is_told_and_the_others_go_on() -> None:
    class Leaving(Server):
        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self.seen:
                await super().__call__(reader, writer)
            else:
                self.seen_at.append(time.monotonic())
                await reader.readuntil(b"\r\n\r\n")
                writer.close()

    run = load_on(Leaving(), Open, **open_task(200, 0.3, connections_max=10))
    assert run.broken == 1
    assert len(run.latencies["plain 202"]) == sum(1 for _ in arrivals(200, 0.3, SEED)) - 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}", 202),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length:0\r\nRetry-After: 1\r\n\r\n", 503),
        (b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{", 0),
        (b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n", 0),
    ],
)
def test_an_answer_counts_once_it_is_there_as_a_whole(answer: bytes, status: int) -> None:
    assert status_of(answer) == status


def a_book() -> Book:
    book = Book(
        {"date": "2030-04-01", "machine": "2 cores", "load": "wrk", "seed": "7", "minutes": "9.5"}, {"Valkey": {"a": "b"}}
    )
    for name, values in {
        "A hot": [5900, 6100, 6000],
        "D hot": [1100, 900, 1000],
        "B hot": [160],
        "A many": [4000],
        "F": [30_000],
    }.items():
        for value in values:
            book.add(name, value)
    for name, value in {
        "overload many": 3500,
        "overload refused many": 3000,
        "overload 503 p99 many": 0.045,
        "overload hot": 4000,
        "apply 1 many": 9000,
        "apply 2 many": 17_000,
    }.items():
        book.add(name, value)
    book.latencies.append(Latency("many", 50, 2000.0, [0.002, 0.004, 0.01], [0.007, 0.05, math.inf]))
    book.latencies.append(Latency("many", 300, 12_000.0, [0.05, 0.2, 0.2], [0.3, 0.6, 0.7], 0.6, 0.25))
    book.growth.append(Growth(10**6, 10**4, [80, 90, 100], [100, 100, 100], {"list": [0.02]}, {"list": [0.01]}, 9.0, 10**9))
    return book


def judged(title: str) -> Judged:
    return next(one for one in judge(a_book()) if one.target.title == title)


@pytest.mark.parametrize(
    ("title", "measured", "met"),
    [
        ("hot session, A/D", 6, True),
        ("hot session, A/B", 37.5, False),
        ("at 3 times capacity, 1,000 sessions: applied / (peak * (1 - refused / F))", 3500 / (4000 * 0.9), True),
        ("at 3 times capacity, 1,000 sessions: a 503, p99 from sending", 45, True),
        ("at 3 times capacity, 1,000 sessions: not answered", 25, False),
        ("at 3 times capacity, one hot session: a 503, p99 from sending", math.inf, False),
        ("at 3 times capacity, one hot session: not answered", None, None),
        ("accept to outcome at 50 % load, 1,000 sessions, p50", 7, True),
        ("accept to outcome at 50 % load, 1,000 sessions, p99", 50, False),
        ("1 to 2 to 4 worker processes, worst step", 17 / 9, True),
        ("growth: apply rate lost, 10^3 to 10^7 reservations", 10, True),
        ("growth: read p99 gained", 100, False),
        ("idle, all processes together", None, None),
    ],
)
def test_a_target_is_judged_by_medians_of_the_same_run(title: str, measured: float | None, met: bool | None) -> None:
    found = judged(title)
    assert found.measured == (None if measured is None else pytest.approx(measured))
    assert found.met is met


def test_the_table_says_what_was_measured_and_the_document_shows_its_charts(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    book = a_book()
    book.save(tmp_path / "bench" / "full.json")
    assert load(tmp_path / "bench" / "full.json") == book
    assert "6,000 (5,900 to 6,100)" in report.on_screen(book)
    report.publish(tmp_path)
    text = (tmp_path / "bench.md").read_text("utf-8")
    assert "| hot session, A/D | ≥ 6 | 6.00 | met |" in text
    assert "2.00 / 4.00 / 10.0 | 7.00 / 50.0 / > 10,000" in text
    for name in ("throughput", "latency"):
        assert f"(bench/{name}.svg)" in text
        assert ET.parse(tmp_path / "bench" / f"{name}.svg").getroot().tag.endswith("svg")
    assert ET.fromstring(charts.growth(book)).tag.endswith("svg")


def test_growth_chooses_different_sessions_over_all_that_there_are() -> None:
    blocks = [Block(100_001, 100), Block(100_101, 9_900)]
    chosen = growth.chosen(blocks, SEED)
    assert len(set(chosen)) == len(chosen) == growth.TOUCHED_SESSIONS
    assert all(100_001 <= session <= 110_000 for session in chosen)
    assert max(chosen) > 105_000
    assert set(growth.chosen(blocks[:1], SEED)) == set(range(100_001, 100_101))


def test_what_the_bench_writes_by_itself_is_what_aforo_would_have_written(deployment: Deployment) -> None:
    books = Books(deployment)
    block = books.sessions(7)
    books.fill(block, 100)
    more = books.sessions(2)
    assert (books.applied(block), books.applied_so_far(block), books.applied(more)) == (100, 100, 0)
    assert books.is_sound(block)
    books.close()
    found = verify.run(deployment.owner_url, None)
    assert (found.sessions, found.reservations, found.differences) == (9, 100, [])
