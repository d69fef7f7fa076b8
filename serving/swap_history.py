"""Which version is live, which is staged and which came before, each with the checksum its weights must have."""

from __future__ import annotations

import time

from contracts.replica import SwapReport
from serving.engine import EngineDead, SwapRefused

Stamped = tuple[int, str]
"""A version and the checksum of its weights in this layout."""


def swap_report(live: Stamped, before: int | None, drain_ms: float, started: float) -> SwapReport:
    """What a swap to `live` did; `started` is the `time.perf_counter` at which the drained engine began it."""
    return SwapReport(
        version=live[0],
        previous_version=before,
        checksum=live[1],
        drain_ms=drain_ms,
        apply_ms=(time.perf_counter() - started) * 1e3,
    )


class SwapHistory:
    """An engine's three slots. It decides what may be swapped to; it holds no weights."""

    def __init__(self) -> None:
        self._live: Stamped | None = None
        self._staged: Stamped | None = None
        self._previous: Stamped | None = None

    @property
    def version(self) -> int | None:
        """The live version; None before `begin`."""
        return None if self._live is None else self._live[0]

    def serving(self) -> int:
        """The live version. Raises EngineDead before `begin`."""
        if self._live is None:
            raise EngineDead("the engine has not been started")
        return self._live[0]

    def begin(self, version: int, checksum: str) -> None:
        """The weights the engine was loaded with."""
        self._live = (version, checksum)

    def stage(self, version: int, checksum: str) -> None:
        """Hold a version ready; replaces what was staged."""
        self._staged = (version, checksum)

    def unstage(self) -> None:
        """Nothing is staged any more."""
        self._staged = None

    def staged(self, version: int) -> Stamped:
        """What a commit swaps to. Raises SwapRefused unless it is `version`."""
        if self._staged is None or self._staged[0] != version:
            held = "nothing is" if self._staged is None else f"{self._staged[0]} is"
            raise SwapRefused(f"version {version} is not staged ({held}); stage it first")
        return self._staged

    def previous(self) -> Stamped:
        """What a roll-back swaps to. Raises SwapRefused when there is none."""
        if self._previous is None:
            raise SwapRefused("there is no earlier version to roll back to; stage and commit one instead")
        return self._previous

    def committed(self) -> int | None:
        """Note that the staged version is live now; returns the one before."""
        before = self._live
        self._live, self._previous, self._staged = self._staged, before, None
        return None if before is None else before[0]

    def rolled_back(self) -> int | None:
        """Note that the previous version is live again; returns the one before. What is staged stays so."""
        before = self._live
        self._live, self._previous = self._previous, None
        return None if before is None else before[0]

    def restored(self) -> str:
        """After a failed swap: forget what was staged and what came before; returns the live weights' checksum."""
        self._staged = self._previous = None
        if self._live is None:
            raise EngineDead("the engine has not been started")
        return self._live[1]
