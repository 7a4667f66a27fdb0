"""Requests that are sent before those ahead of them are answered: each is read and judged as if it had come by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.protocol import HEAD_BYTES, GuardedProtocol
from tests.support.raw import get, post
from tests.support.serving import Serve, Serving, drain, somebody, waiting, warm
from tests.support.stack import Deployment
from tests.support.waiting import until_in_loop

ALIVE = get("/healthz")


@pytest.mark.parametrize("way", ["", ", return=minimal"])
def test_who_leaves_is_forgotten_also_when_more_was_sent_behind(serve: Serve, way: str) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            async with serving.connection() as hasty:
                hasty.writer.write(post(path, somebody(), f"Prefer: wait=30{way}") + ALIVE)
                await until_in_loop(lambda: waiting(serving) == 1 and serving.services.door._grouped.is_idle)
            connections = serving.server.server_state.connections
            await until_in_loop(lambda: len(connections) == 1)  # well before it would have been told anyway
            if not way:
                assert waiting(serving) == 0

    serve(run)


def test_nobody_is_late_with_what_is_not_read(serve: Serve, deployment: Deployment) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            (protocol,) = serving.server.server_state.connections
            guard = protocol._guard
            object.__setattr__(guard.limits, "body_seconds", 1.0)
            object.__setattr__(guard.limits, "head_seconds", 1.0)
            behind, last = post(path, somebody()), ALIVE
            line.writer.write(post(path, somebody(), "Prefer: wait=30") + behind[:-10])
            await until_in_loop(lambda: waiting(serving) == 1 and protocol.pipeline)
            began = guard.now
            line.writer.write(behind[-10:] + last[:-10])
            await until_in_loop(lambda: guard.now > began + 3)
            await asyncio.to_thread(drain, deployment)
            assert [(await line.answer()).status for _ in range(2)] == [201, 202]
            line.writer.write(last[-10:])
            assert (await line.answer()).status == 200

    serve(run)


def test_a_request_that_comes_in_two_parts_is_not_taken_for_as_long_as_what_came_before_it(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        many = 2 * HEAD_BYTES // len(ALIVE)
        async with serving.connection() as line:
            line.writer.write(ALIVE * many + ALIVE[:20])
            assert [(await line.answer()).status for _ in range(many)] == [200] * many
            for part in (ALIVE[20:25], ALIVE[25:]):
                line.writer.write(part)
                await asyncio.sleep(0)
            assert (await line.answer()).status == 200

    serve(run)


@pytest.mark.parametrize("cut", [0, 10_000])
def test_a_head_that_is_too_long_is_found_behind_others_too(serve: Serve, cut: int) -> None:
    async def run(serving: Serving) -> None:
        long = get("/healthz", "X-Long: " + "x" * HEAD_BYTES)
        async with serving.connection() as line:
            line.writer.write(ALIVE + long[: cut or len(long)])
            assert (await line.answer()).status == 200
            line.writer.write(long[cut or len(long) :])
            assert (await line.answer()).status == 431
            assert await line.is_closed()

    serve(run)


def test_only_what_came_in_one_piece_lies_behind_a_request(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    receive = GuardedProtocol.data_received

    def note(protocol: Any, data: bytes) -> None:
        receive(protocol, data)
        lengths.append(len(protocol.pipeline))

    monkeypatch.setattr(GuardedProtocol, "data_received", note)

    async def run(serving: Serving) -> None:
        one = get("/healthz", "X-Long: " + "x" * 8000)
        async with serving.connection() as line:
            line.writer.write(one * 1000)
            assert [(await line.answer()).status for _ in range(1000)] == [200] * 1000

    serve(run)
    assert max(lengths) <= 256 * 1024 // 8000 + 1  # what is read at once
