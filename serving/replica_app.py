"""The replica's private HTTP API (`contracts/replica.py`) and the life of its process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from contracts.problem import problem
from contracts.replica import CommitRequest, RankRequest, StageRequest
from contracts.wire import encode
from serving.problems import KINDS, InvalidBody, answer_problem, decode_body, problem_response
from serving.replica import UNRELEASED, FindVersion, Replica

BODY_LIMIT_BYTES = 4 << 20
"""10,000 excluded and 10,000 candidate ids of 100 characters fit twice."""
DRAIN_SECONDS = 10.0
_JSON = "application/json"
_rank = msgspec.json.Decoder(RankRequest)
_stage = msgspec.json.Decoder(StageRequest)
_commit = msgspec.json.Decoder(CommitRequest)
_logger = structlog.get_logger("slipstream.serving")


def create_app(replica: Replica) -> FastAPI:
    """The routes over one replica. Bodies are decoded by msgspec: pydantic would cost more than `tiny` itself."""
    app = FastAPI(title="Slipstream serving replica", openapi_url=None)
    for kind in (*KINDS, InvalidBody):
        app.add_exception_handler(kind, answer_problem)

    @app.post("/v1/rank")
    async def rank(request: Request) -> Response:
        return _answer(await replica.rank(decode_body(await _body(request), _rank)))

    @app.post("/v1/releases/stage")
    async def stage(request: Request) -> Response:
        return _answer(await replica.stage(decode_body(await _body(request), _stage).version))

    @app.post("/v1/releases/commit")
    async def commit(request: Request) -> Response:
        return _answer(await replica.commit(decode_body(await _body(request), _commit).version))

    @app.post("/v1/releases/roll-back")
    async def roll_back() -> Response:
        return _answer(await replica.roll_back())

    @app.get("/v1/status")
    async def status() -> Response:
        return _answer(replica.status())

    @app.get("/v1/checksum")
    async def checksum() -> Response:
        return _answer(await replica.checksum())

    _add_probes(app, replica)
    return app


def _add_probes(app: FastAPI, replica: Replica) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        return PlainTextResponse("ok")

    @app.get("/readyz")
    async def readyz() -> Response:
        if replica.lifecycle.serving:
            return PlainTextResponse("ok")
        why = f"this replica is {replica.lifecycle.state}: {replica.lifecycle.reason}"
        return problem_response(problem("replica-not-serving", "Replica is not serving", 503, why))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(replica.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _answer(message: msgspec.Struct) -> Response:
    return Response(encode(message), media_type=_JSON)


async def _body(request: Request) -> bytes:
    """The body, read no further than the limit. Raises InvalidBody: 413 beyond it."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_LIMIT_BYTES:
            detail = f"the body is over {BODY_LIMIT_BYTES} bytes; send fewer ids"
            raise InvalidBody(problem("body-too-large", "Body too large", 413, detail))
        parts.append(part)
    return b"".join(parts)


class _Server(uvicorn.Server):
    """Leaves the signals to `serve`, which drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(replica: Replica, find_version: FindVersion, host: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT (returns 0) or until the engine is lost (returns 1).

    The port opens when the engine is loaded: its processes are forked, and would inherit and hold open connections.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await replica.engine.start(UNRELEASED)
        server = _server(replica, host, port)
        tasks = {
            asyncio.create_task(stop.wait(), name="signal"),
            asyncio.create_task(server.serve(), name="http"),
            asyncio.create_task(replica.engine.wait_lost(), name="engine"),
        }
        bringing_up = asyncio.create_task(replica.bring_up(find_version), name="bring-up")
        try:
            return await _until_the_end(replica, server, tasks, bringing_up)
        finally:
            for task in (*tasks, bringing_up):
                task.cancel()
            await asyncio.gather(*tasks, bringing_up, return_exceptions=True)
    finally:
        await replica.engine.close()


async def _until_the_end(
    replica: Replica, server: _Server, tasks: set[asyncio.Task[Any]], bringing_up: asyncio.Task[None]
) -> int:
    waiting = {*tasks, bringing_up}
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if bringing_up in done and not bringing_up.exception():
            continue
        break
    for task in done:
        if task.get_name() == "engine":
            replica.lifecycle.fail(str(task.result()))
        elif (error := task.exception()) is not None:
            replica.lifecycle.fail(f"{type(error).__name__}: {error}")
    _logger.info("replica_stops", state=replica.lifecycle.state, reason=replica.lifecycle.reason)
    failed = not any(task.get_name() == "signal" for task in done)
    await replica.drain(0.0 if failed else DRAIN_SECONDS)
    server.should_exit = True
    await asyncio.wait([task for task in tasks if task.get_name() == "http"], timeout=DRAIN_SECONDS)
    return int(failed)


def _server(replica: Replica, host: str, port: int) -> _Server:
    config = uvicorn.Config(
        create_app(replica),
        host=host,
        port=port,
        loop="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
    )
    return _Server(config)
