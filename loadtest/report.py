"""The one JSON line that a command which measures ends with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import msgspec

from loadtest.answers import Summary

_GOALS: dict[str, tuple[str, float | None]] = {
    "requests": ("requests", None),
    "rate": ("requests/s", None),
    "failures": ("requests", 0),
    "fallbacks": ("requests", None),
    "dropped": ("requests", 0),
    "p50_ms": ("ms", None),
    "p90_ms": ("ms", None),
    "p99_ms": ("ms", None),
    "max_ms": ("ms", None),
    "late_p99_ms": ("ms", None),
}
_MORE_IS_BETTER = frozenset({"requests", "rate"})


def measurements(command: str, summary: Summary) -> str:
    """`summary` as `{"command", "version", "machine", "rows"}`."""
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "value": getattr(summary, name),
            "unit": unit,
            "goal": goal,
            "better": "higher" if name in _MORE_IS_BETTER else "lower",
            "baseline": None,
        }
        for name, (unit, goal) in _GOALS.items()
    ]
    line = {"command": command, "version": metadata.version("slipstream-rec"), "machine": _machine(), "rows": rows}
    return msgspec.json.encode(line).decode()


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
