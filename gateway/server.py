"""Running the two apps in one event loop, and ending them in order: no new connections, answers, log, replicas."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from gateway.admin import create_admin_app
from gateway.app import create_app
from gateway.service import Gateway


class _Server(uvicorn.Server):
    """Leaves the signals to `serve`, since there are two of these."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(gateway: Gateway, host: str, port: int, admin_port: int | None, admin_token: str) -> None:
    """`serve` in an event loop of its own, uvloop where it is installed."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve(gateway, host, port, admin_port, admin_token))


async def serve(gateway: Gateway, host: str, port: int, admin_port: int | None, admin_token: str) -> None:
    """Serve until SIGTERM or SIGINT; then requests in flight may finish.

    Args:
        admin_port: None leaves the admin app out.
    """
    public = _server(create_app(gateway), host, port, gateway.settings.shutdown_seconds)
    servers = [public]
    if admin_port is not None:
        servers.append(_server(create_admin_app(gateway, admin_token), host, admin_port, 1.0))

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = [asyncio.create_task(server.serve()) for server in servers]
    try:
        await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)  # one that can't bind ends the other
    finally:
        stop()
        await asyncio.gather(*serving)


def _server(app: FastAPI, host: str, port: int, shutdown_seconds: float) -> _Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="none",
        http="httptools",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
    )
    return _Server(config)
