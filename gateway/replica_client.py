"""One serving replica, as the gateway talks to it and what it knows of it."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import aiohttp
import msgspec

from contracts.problem import PROBLEM_TYPE_BASE, Problem
from contracts.replica import (
    CommitRequest,
    RankAnswer,
    RankRequest,
    ReplicaState,
    ReplicaStatus,
    StageRequest,
    SwapReport,
)
from contracts.wire import UnreadableMessage, decode, encode

T = TypeVar("T")
_ANSWERS = frozenset({ReplicaState.READY, ReplicaState.PREPARING, ReplicaState.COMMITTING})
_JSON = {"Content-Type": "application/json"}
_OVERLOADED = PROBLEM_TYPE_BASE + "replica-overloaded"
_MISSES_ALLOWED = 2


class ReplicaFailed(Exception):
    """No usable answer: the connection broke, the time ran out, or it said 5xx. Another replica may do better."""


class ReplicaBusy(ReplicaFailed):
    """It is full, and as well as ever: another one may have room."""


class ReplicaRefused(Exception):
    """The replica said no (409, 422, …) and serves on as before; the text is its own."""


class Replica:
    """A replica's address, state and load. For one event loop.

    Attributes:
        name: `HOST:PORT`; what the replica calls itself stands in `status`.
        status: its last word on itself; None before the first.
        in_flight: recommendations it owes this gateway.
        swapping: True while the rollout commits on it: routed around where another replica is there.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/")
        self.name = self.url.partition("://")[2]
        self.status: ReplicaStatus | None = None
        self.problem: str | None = f"{self.name}: not reached yet"
        self.in_flight = 0
        self.swapping = False
        self._misses = 0
        self._swaps = 0
        self._session = session

    @property
    def usable(self) -> bool:
        """Whether it can be sent recommendations and releases."""
        return self.problem is None

    @property
    def version(self) -> int | None:
        """The version it serves, as far as is known."""
        return self.status.version if self.status else None

    async def refresh(self, timeout_seconds: float) -> None:
        """Ask for its status. A refused connection counts at once, a slow answer only when it repeats."""
        swaps = self._swaps
        try:
            status = await self._call("GET", "/v1/status", None, ReplicaStatus, timeout_seconds)
        except (ReplicaFailed, ReplicaRefused) as error:
            self._misses += 1
            if self._misses >= _MISSES_ALLOWED or not isinstance(error.__cause__, TimeoutError):
                self.problem = str(error)
            return
        self._misses = 0
        if swaps == self._swaps:  # else it may tell of the version before the swap
            self.status = status
        self.problem = (
            None if status.state in _ANSWERS else f"{self.name}: {status.state}: {status.reason}".rstrip(": ")
        )

    async def rank(self, request: RankRequest, timeout_seconds: float) -> RankAnswer:
        """One recommendation.

        Raises:
            ReplicaFailed: and until its status is good again it is not `usable`.
            ReplicaRefused: the request itself is not to its liking.
        """
        self.in_flight += 1
        try:
            answer = await self._call("POST", "/v1/rank", encode(request), RankAnswer, timeout_seconds)
        except ReplicaBusy:
            raise
        except ReplicaFailed as error:
            self.problem = str(error)
            raise
        finally:
            self.in_flight -= 1
        return answer

    async def stage(self, version: int, timeout_seconds: float) -> None:
        """Have it read and verify a release. Raises ReplicaRefused, ReplicaFailed."""
        body = encode(StageRequest(version=version))
        self.status = await self._call("POST", "/v1/releases/stage", body, ReplicaStatus, timeout_seconds)

    async def commit(self, version: int, timeout_seconds: float) -> SwapReport:
        """Have it serve the staged release. Raises ReplicaRefused, ReplicaFailed."""
        body = encode(CommitRequest(version=version))
        return self._swapped(await self._call("POST", "/v1/releases/commit", body, SwapReport, timeout_seconds))

    async def roll_back(self, timeout_seconds: float) -> SwapReport:
        """Have it serve what it served before its last commit. Raises ReplicaRefused, ReplicaFailed."""
        return self._swapped(await self._call("POST", "/v1/releases/roll-back", b"", SwapReport, timeout_seconds))

    def _swapped(self, report: SwapReport) -> SwapReport:
        self._swaps += 1
        if self.status is not None:
            self.status = msgspec.structs.replace(self.status, version=report.version)
        return report

    async def _call(self, method: str, path: str, body: bytes | None, answer: type[T], timeout_seconds: float) -> T:
        try:
            async with asyncio.timeout(timeout_seconds):
                async with self._session.request(method, self.url + path, data=body, headers=_JSON) as response:
                    content = await response.read()
        except TimeoutError as error:
            raise ReplicaFailed(f"{self.name}{path}: no answer within {timeout_seconds:.2f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ReplicaFailed(f"{self.name}{path}: {type(error).__name__}: {error}") from error
        if response.status >= 400:
            raise _no(response.status, f"{self.name}{path}", content)
        try:
            return decode(content, answer)
        except UnreadableMessage as error:
            raise ReplicaFailed(f"{self.name}{path}: {error}") from error


def _no(status: int, where: str, content: bytes) -> ReplicaFailed | ReplicaRefused:
    try:
        document = decode(content, Problem)
        kind, detail = document.type, document.detail
    except UnreadableMessage:
        kind, detail = "", content[:200].decode(errors="replace")
    text = f"{where}: {status}: {detail}"
    if kind == _OVERLOADED:
        return ReplicaBusy(text)
    return ReplicaFailed(text) if status >= 500 else ReplicaRefused(text)
