"""A replica's private API over real HTTP, without a model: it does what it is told, failing included."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from contracts.problem import PROBLEM_JSON, problem
from contracts.replica import (
    CommitRequest,
    RankAnswer,
    RankRequest,
    ReplicaState,
    ReplicaStatus,
    ScoredItem,
    StageRequest,
    SwapReport,
)
from contracts.wire import decode, encode


@dataclass
class ReplicaDouble:
    """One replica.

    Attributes:
        refuse: versions it won't stage.
        dies: cuts every recommendation's connection.
        hangs: never answers a recommendation.
        unready: answers recommendations with 503.
        full: answers them with the 503 of a replica that has no room.
        commit_seconds, status_seconds: how long these take.
        ranked, staged, committed: what it was asked, in order.
        journal: shared by doubles: (name, what) of each swap's steps, in order.
    """

    name: str
    version: int = 1
    state: ReplicaState = ReplicaState.READY
    refuse: set[int] = field(default_factory=set)
    dies: bool = False
    hangs: bool = False
    unready: bool = False
    full: bool = False
    commit_seconds: float = 0.0
    status_seconds: float = 0.0
    ranked: list[RankRequest] = field(default_factory=list)
    staged: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    journal: list[tuple[str, str]] = field(default_factory=list)
    previous: int | None = None
    url: str = ""

    async def start(self) -> web.AppRunner:
        """Listen on a free port; `url` is set then."""
        app = web.Application()
        app.router.add_post("/v1/rank", self._rank)
        app.router.add_post("/v1/releases/stage", self._stage)
        app.router.add_post("/v1/releases/commit", self._commit)
        app.router.add_post("/v1/releases/roll-back", self._roll_back)
        app.router.add_get("/v1/status", self._status)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def _now(self) -> ReplicaStatus:
        return ReplicaStatus(
            replica=self.name,
            state=self.state,
            model="m",
            version=self.version,
            staged_version=self.staged[-1] if self.staged else None,
            in_flight=0,
            engine="torch",
        )

    async def _status(self, request: web.Request) -> web.Response:
        said = encode(self._now())
        await asyncio.sleep(self.status_seconds)
        return _json(said)

    async def _rank(self, request: web.Request) -> web.Response:
        self.ranked.append(decode(await request.read(), RankRequest))
        if self.dies and request.transport is not None:
            request.transport.abort()
        if self.hangs:
            await asyncio.sleep(3600)
        if self.unready:
            return _no(503, "not ready")
        if self.full:
            return _no(503, "512 recommendations are in this replica", "replica-overloaded")
        answer = RankAnswer(model_version=self.version, items=[ScoredItem(self.name, -1.0)], engine_ms=0.1)
        return _json(encode(answer))

    async def _stage(self, request: web.Request) -> web.Response:
        version = decode(await request.read(), StageRequest).version
        self.journal.append((self.name, f"stage {version}"))
        if version in self.refuse:
            return _no(422, f"release {version}: a checksum differs")
        self.staged.append(version)
        return _json(encode(self._now()))

    async def _commit(self, request: web.Request) -> web.Response:
        version = decode(await request.read(), CommitRequest).version
        if not self.staged or self.staged[-1] != version:
            return _no(409, f"release {version} is not staged")
        self.journal.append((self.name, f"commit {version}"))
        await asyncio.sleep(self.commit_seconds)
        self.committed.append(version)
        self.journal.append((self.name, f"committed {version}"))
        return self._swap(version)

    async def _roll_back(self, request: web.Request) -> web.Response:
        if self.previous is None:
            return _no(409, "there is nothing to go back to")
        self.journal.append((self.name, f"roll back to {self.previous}"))
        return self._swap(self.previous, previous=None)

    def _swap(self, version: int, previous: int | None = 0) -> web.Response:
        self.previous = self.version if previous == 0 else previous
        self.version = version
        report = SwapReport(version=version, previous_version=self.previous, checksum="c", drain_ms=0, apply_ms=0)
        return _json(encode(report))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _no(status: int, detail: str, kind: str = "no") -> web.Response:
    return web.Response(body=encode(problem(kind, "No", status, detail)), status=status, content_type=PROBLEM_JSON)
