"""The driver against a server that stalls: what an open loop shows and a closed one hides."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from contracts.recommendation import RecommendationAnswer
from contracts.replica import ScoredItem
from contracts.wire import encode
from loadtest.answers import Answer, summarise
from loadtest.open_loop import OpenLoopSettings, drive

Handler = Callable[[web.Request], Awaitable[web.Response]]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_post("/v1/recommendations", handler)
        runners.append(web.AppRunner(app))
        await runners[-1].setup()
        site = web.TCPSite(runners[-1], "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runners[-1].addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


def listed() -> web.Response:
    items = [ScoredItem("a", -1.0)]
    body = RecommendationAnswer(recommendation_id="r", model_version=3, items=items, fallback=None, took_ms=1.0)
    headers = {"X-Replica": "one", "X-History-Length": "7"}
    return web.Response(body=encode(body), content_type="application/json", headers=headers)


async def test_an_answer_is_kept_whole(serve: Callable[[Handler], Awaitable[str]]) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert (await request.json())["user_id"] in ("x", "y")
        return listed()

    url = await serve(handler)
    settings = OpenLoopSettings(url=url, rate=100, seconds=0.2, arrivals="constant")
    seen: list[str] = []
    answers = await drive(settings, itertools.cycle(["x", "y"]), on_answer=lambda answer: seen.append(answer.user_id))
    assert len(answers) == len(seen) == 19
    first = answers[0]
    assert (first.user_id, first.status, first.model_version, first.replica) == ("x", 200, 3, "one")
    assert first.history_length == 7
    assert first.items == [ScoredItem("a", -1.0)]
    assert first.due_at <= first.sent_at <= first.received_at


async def test_a_stall_is_felt_by_everyone_who_came_meanwhile(serve: Callable[[Handler], Awaitable[str]]) -> None:
    """One stall of 0.3 s at 100 requests/s: a closed loop would report one slow request, here it is about 30."""
    opened = asyncio.Event()
    loop = asyncio.get_running_loop()
    came = itertools.count()

    async def handler(request: web.Request) -> web.Response:
        number = next(came)
        if number == 10:
            loop.call_later(0.3, opened.set)
        if number >= 10:
            await opened.wait()
        return listed()

    url = await serve(handler)
    answers = await drive(OpenLoopSettings(url=url, rate=100, seconds=1, arrivals="constant"), itertools.repeat("x"))
    assert len(answers) == 99
    assert sum(answer.latency_seconds > 0.05 for answer in answers) > 20
    assert summarise(answers).dropped == 0


async def test_failures_are_answers_too(serve: Callable[[Handler], Awaitable[str]]) -> None:
    ways = itertools.cycle([503, None, 0])

    async def handler(request: web.Request) -> web.Response:
        match next(ways):
            case None:
                await asyncio.sleep(0.6)
            case 0:
                assert request.transport is not None
                request.transport.close()
        return web.Response(status=503, text="no")

    url = await serve(handler)
    settings = OpenLoopSettings(url=url, rate=30, seconds=0.3, arrivals="constant", timeout_seconds=0.2)
    answers = await drive(settings, itertools.repeat("x"))
    assert len(answers) == 8
    assert {answer.status for answer in answers} == {503, 0}
    assert any("no answer within" in answer.error for answer in answers)
    assert any("ServerDisconnected" in answer.error for answer in answers)
    assert summarise(answers).dropped == 8


async def test_the_driver_s_memory_has_a_bound_and_it_can_be_stopped(
    serve: Callable[[Handler], Awaitable[str]],
) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        return listed()

    url = await serve(handler)
    stop = asyncio.Event()

    def note(answer: Answer) -> None:
        if "sends no more" in answer.error:
            stop.set()

    settings = OpenLoopSettings(url=url, rate=100, seconds=60, timeout_seconds=0.4, max_in_flight=5)
    answers = await drive(settings, itertools.repeat("x"), on_answer=note, stop=stop)
    assert 6 <= len(answers) < 20
