"""The states of a release as the rollout sees them, and which may follow which."""

from __future__ import annotations

from enum import StrEnum


class ReleaseState(StrEnum):
    """Where a release stands."""

    PUBLISHED = "published"
    """Announced; no replica holds it."""
    STAGED = "staged"
    """At least one replica has read and verified it."""
    LIVE = "live"
    """The version that the live record names; at most one."""
    ROLLED_BACK = "rolled_back"
    """Was live, and an operator sent it back. Only an operator promotes it again."""
    SUPERSEDED = "superseded"
    """A later release took its place, with or without it ever having been live."""


TRANSITIONS: dict[ReleaseState, frozenset[ReleaseState]] = {
    ReleaseState.PUBLISHED: frozenset({ReleaseState.STAGED, ReleaseState.SUPERSEDED}),
    ReleaseState.STAGED: frozenset({ReleaseState.LIVE, ReleaseState.SUPERSEDED}),
    ReleaseState.LIVE: frozenset({ReleaseState.SUPERSEDED, ReleaseState.ROLLED_BACK}),
    ReleaseState.ROLLED_BACK: frozenset({ReleaseState.STAGED}),
    # An older version comes back by promotion (staged again) or by a roll-back (replicas still hold it: live).
    ReleaseState.SUPERSEDED: frozenset({ReleaseState.STAGED, ReleaseState.LIVE}),
}

_REMEMBERED = 100


class IllegalTransition(Exception):
    """A release asked to go where its state does not lead: a bug of ours."""


class ReleaseBook:
    """The states of the last releases; what is older is forgotten."""

    def __init__(self) -> None:
        self._states: dict[int, ReleaseState] = {}

    def state(self, version: int) -> ReleaseState | None:
        """None for a version never seen, or forgotten."""
        return self._states.get(version)

    def states(self) -> dict[int, ReleaseState]:
        """By version, ascending."""
        return dict(sorted(self._states.items()))

    @property
    def live(self) -> int | None:
        """The live version."""
        return next((v for v, state in self._states.items() if state is ReleaseState.LIVE), None)

    def add(self, version: int, state: ReleaseState = ReleaseState.PUBLISHED) -> None:
        """Note a release met for the first time; does nothing for one that is known."""
        self._states.setdefault(version, state)
        for old in sorted(self._states)[:-_REMEMBERED]:
            if self._states[old] is not ReleaseState.LIVE:
                del self._states[old]

    def move(self, version: int, state: ReleaseState) -> None:
        """Change a release's state; staying is allowed.

        Raises:
            IllegalTransition: the table does not have it.
        """
        now = self._states[version]
        if state is now:
            return
        if state not in TRANSITIONS[now]:
            raise IllegalTransition(f"release {version} can't go from {now} to {state}")
        self._states[version] = state

    def supersede(self, newest: int) -> None:
        """A later release is there: what is older and on no replica will not be staged any more."""
        for version, state in self._states.items():
            if version < newest and state is ReleaseState.PUBLISHED:
                self._states[version] = ReleaseState.SUPERSEDED

    def make_live(self, version: int, *, rolled_back: bool = False) -> None:
        """`version` is live from now on, and what was live before is superseded, or rolled back."""
        before = self.live
        if before is not None and before != version:
            self.move(before, ReleaseState.ROLLED_BACK if rolled_back else ReleaseState.SUPERSEDED)
        self.move(version, ReleaseState.LIVE)
        for other, state in self._states.items():
            if state is ReleaseState.STAGED:
                self._states[other] = ReleaseState.SUPERSEDED
