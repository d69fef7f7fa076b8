"""The open-loop driver: requests go out when they are due, whether or not earlier ones have been answered.

A closed loop (Locust) waits for its answers, so a stalled server is asked less, and the stall hides. Here latency
counts from the intended time of sending, as an independent user would feel it.

    >>> settings = OpenLoopSettings(url="http://127.0.0.1:8080", rate=50, seconds=20)
    >>> answers = await drive(settings, users=itertools.cycle(["1", "2"]))
    >>> summarise(answers).p99_ms
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from contracts.recommendation import RecommendationAnswer, RecommendationRequest
from contracts.wire import UnreadableMessage, decode, encode
from loadtest.answers import Answer
from loadtest.arrivals import Arrivals, arrival_times

_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class OpenLoopSettings:
    """What to send, and how fast.

    Attributes:
        url: the gateway's base URL.
        rate: requests a second, on average.
        seconds: for how long requests are sent; answers are waited for after that.
        arrivals: `poisson` or `constant`.
        num_results: items asked for.
        timeout_seconds: an answer that takes longer is a failure.
        max_in_flight: past it a request fails at once and says so: the driver's memory has a bound too.
        seed: of the arrivals.
    """

    url: str
    rate: float
    seconds: float
    arrivals: Arrivals = "poisson"
    num_results: int = 10
    timeout_seconds: float = 10.0
    max_in_flight: int = 1000
    seed: int = 0


async def drive(
    settings: OpenLoopSettings,
    users: Iterator[str],
    on_answer: Callable[[Answer], None] | None = None,
    stop: asyncio.Event | None = None,
) -> list[Answer]:
    """Send requests for `users`, one each, and return every answer in the order in which they came.

    It costs 0.2 ms of CPU a request beside the kernel's own for two socket calls (0.7 ms in all on a virtual machine
    where one send takes 0.5 ms); httpx2 would add 0.5 ms.

    Args:
        on_answer: called with each answer as it comes.
        stop: once set, no further request is sent.
    """
    driver = _Driver(settings, on_answer)
    # Timeouts are ours (asyncio.timeout); one connection a request in flight, as many users would have.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        start = time.time()
        tasks: set[asyncio.Task[None]] = set()
        for due in arrival_times(settings.rate, settings.seconds, settings.arrivals, settings.seed):
            await _sleep_until(start + due)
            if stop is not None and stop.is_set():
                break
            task = asyncio.create_task(driver.ask(session, next(users), start + due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    return driver.answers


class _Driver:
    def __init__(self, settings: OpenLoopSettings, on_answer: Callable[[Answer], None] | None) -> None:
        self._settings = settings
        self._url = settings.url.rstrip("/") + "/v1/recommendations"
        self._on_answer = on_answer
        self._in_flight = 0
        self.answers: list[Answer] = []

    async def ask(self, session: aiohttp.ClientSession, user_id: str, due_at: float) -> None:
        """One request, kept as an `Answer` whatever becomes of it."""
        sent_at = time.time()
        self._in_flight += 1
        try:
            said = await self._send(session, user_id)
        finally:
            self._in_flight -= 1
        answer = Answer(due_at=due_at, sent_at=sent_at, received_at=time.time(), user_id=user_id, **said)
        self.answers.append(answer)
        if self._on_answer is not None:
            self._on_answer(answer)

    async def _send(self, session: aiohttp.ClientSession, user_id: str) -> dict[str, Any]:
        """What came back, as fields of `Answer`."""
        if self._in_flight > self._settings.max_in_flight:
            return {"status": 0, "error": f"{self._in_flight} requests wait for an answer: the driver sends no more"}
        request = RecommendationRequest(user_id=user_id, num_results=self._settings.num_results, scenario="loadtest")
        try:
            async with (
                asyncio.timeout(self._settings.timeout_seconds),
                session.post(self._url, data=encode(request), headers=_JSON) as response,
            ):
                return _read(response.status, await response.read(), response.headers)
        except TimeoutError:
            return {"status": 0, "error": f"no answer within {self._settings.timeout_seconds} s"}
        except (aiohttp.ClientError, OSError) as error:
            return {"status": 0, "error": f"{type(error).__name__}: {error}"}


def _read(status: int, content: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    if status != 200:
        return {"status": status, "error": content[:500].decode(errors="replace")}
    try:
        answer = decode(content, RecommendationAnswer)
    except UnreadableMessage as error:
        return {"status": 0, "error": f"an answer that can't be read: {error}"}
    return {
        "status": status,
        "history_length": int(headers.get("X-History-Length", "-1")),
        "model_version": answer.model_version,
        "fallback": answer.fallback,
        "replica": headers.get("X-Replica"),
        "items": answer.items,
    }


async def _sleep_until(moment: float) -> None:
    """Returns at once when `moment` has passed: what is overdue goes out back to back."""
    await asyncio.sleep(max(0.0, moment - time.time()))
