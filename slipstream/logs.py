"""Logs: one JSON object a line on stderr, whatever the process. stdout is for results."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog
import typer

_encoder = msgspec.json.Encoder(enc_hook=repr)


def configure(level: str = "info") -> None:
    """Set up structlog, and have the standard library's loggers (uvicorn, kafka) end in the same lines.

    Args:
        level: `debug`, `info`, `warning` or `error`. The libraries' own loggers speak from `warning` up.

    Raises:
        typer.BadParameter: another level.
    """
    known = logging.getLevelNamesMapping()
    if level.upper() not in known:
        raise typer.BadParameter(f"{level!r}: use debug, info, warning or error", param_hint="--log-level")
    number = known[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *shared, _render_bytes],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    render = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[render, _render_text])
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    # kafka-python says four things at every attempt to reconnect; what they mean to us, our own log says once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def _render_bytes(_: Any, __: str, event: structlog.types.EventDict) -> bytes:
    return _encoder.encode(event)


def _render_text(logger: Any, name: str, event: structlog.types.EventDict) -> str:
    return _render_bytes(logger, name, event).decode()
