"""Where a replica stands, and the only ways to go from there."""

from __future__ import annotations

from contracts.replica import ReplicaState

_S = ReplicaState

TRANSITIONS: dict[ReplicaState, frozenset[ReplicaState]] = {
    _S.STARTING: frozenset({_S.READY, _S.DRAINING, _S.FAILED}),
    _S.READY: frozenset({_S.PREPARING, _S.COMMITTING, _S.DRAINING, _S.FAILED}),
    # A roll-back does not wait for a release that is being staged: committing, and back to preparing.
    _S.PREPARING: frozenset({_S.READY, _S.COMMITTING, _S.DRAINING, _S.FAILED}),
    _S.COMMITTING: frozenset({_S.READY, _S.PREPARING, _S.DRAINING, _S.FAILED}),
    _S.DRAINING: frozenset({_S.FAILED}),
    _S.FAILED: frozenset(),
}
"""`failed` is left only by a restart of the process; what drains never serves again."""

SERVING_STATES = frozenset({_S.READY, _S.PREPARING, _S.COMMITTING})
"""A replica that commits answers too: it holds requests back for the length of the swap."""


class IllegalTransition(Exception):
    """A state that can't follow the present one; the text names both."""


class Lifecycle:
    """A replica's state and why it has it."""

    def __init__(self) -> None:
        self.state = ReplicaState.STARTING
        self.reason = "starting"

    @property
    def serving(self) -> bool:
        """Whether recommendations are taken."""
        return self.state in SERVING_STATES

    def enter(self, state: ReplicaState, reason: str = "") -> None:
        """Go to `state`. Raises IllegalTransition when the table has no such way."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"a replica that is {self.state} can't become {state}")
        self.state, self.reason = state, reason

    def fail(self, reason: str) -> None:
        """Go to `failed` from wherever; the first reason stays."""
        if self.state is not ReplicaState.FAILED:
            self.enter(ReplicaState.FAILED, reason)
