"""The port at which Prometheus finds a trainer's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry


class PortTaken(Exception):
    """The endpoint can't be opened; the text says which option to change."""


def serve_metrics(port: int, host: str, registry: CollectorRegistry) -> Callable[[], None]:
    """Answer on `host:port` from a thread of its own; returns what ends that. Raises PortTaken."""
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise PortTaken(
            f"--metrics-port {port} can't be opened on {host} ({getattr(error, 'strerror', None) or error}): end what "
            "listens there, or give another --metrics-port or --metrics-host"
        ) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


def require_port(port: int, host: str) -> None:
    """For who will have a child serve there: finds out before the child is made. Raises PortTaken."""
    from prometheus_client import CollectorRegistry

    serve_metrics(port, host, CollectorRegistry())()
