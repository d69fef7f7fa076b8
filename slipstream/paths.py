"""Where caches lie."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$SLIPSTREAM_CACHE`, else `slipstream` in the user's cache folder."""
    if named := os.environ.get("SLIPSTREAM_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipstream"
