"""The gate between recommendations and swaps: many of the one, or one of the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SwapGate:
    """Lets recommendations pass until a swap wants in, drains them, and holds new ones back meanwhile.

    What is drained is whole recommendations: one may need several engine requests. For one event loop.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._one_swap = asyncio.Lock()

    @asynccontextmanager
    async def recommendation(self) -> AsyncIterator[None]:
        """Inside, no swap happens."""
        while not self._open.is_set():
            await self._open.wait()
        self.in_flight += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._empty.set()

    @asynccontextmanager
    async def swap(self) -> AsyncIterator[float]:
        """Inside, no recommendation runs. Yields the milliseconds that draining took."""
        async with self._one_swap:
            started = time.perf_counter()
            self._open.clear()
            try:
                await self._empty.wait()
                yield (time.perf_counter() - started) * 1e3
            finally:
                self._open.set()
