"""Which version is live, which is staged and which came before, each with the checksum its weights must have."""

from __future__ import annotations

from serving.engine import EngineDead, SwapRefused

Stamped = tuple[int, str]
"""A version and the checksum of its weights in this layout."""


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

    def swapped(self, version: int, checksum: str) -> int | None:
        """Note that `version` is live now; returns the one before. A roll-back leaves nothing to roll back to."""
        target, before = (version, checksum), self._live
        rolled_back = target == self._previous and target != self._staged
        self._live = target
        self._previous = None if rolled_back else before
        if not rolled_back:
            self._staged = None
        return None if before is None else before[0]

    def restored(self) -> str:
        """After a failed swap: forget what was staged and what came before; returns the live weights' checksum."""
        self._staged = self._previous = None
        if self._live is None:
            raise EngineDead("the engine has not been started")
        return self._live[1]
