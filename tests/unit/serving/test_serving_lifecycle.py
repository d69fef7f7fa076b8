"""The replica's states, every pair of them."""

from __future__ import annotations

import itertools

import pytest

from contracts.replica import ReplicaState
from serving.lifecycle import TRANSITIONS, IllegalTransition, Lifecycle

S = ReplicaState
ALLOWED = {
    (S.STARTING, S.READY),
    (S.STARTING, S.DRAINING),
    (S.STARTING, S.FAILED),
    (S.READY, S.PREPARING),
    (S.READY, S.COMMITTING),
    (S.READY, S.DRAINING),
    (S.READY, S.FAILED),
    (S.PREPARING, S.READY),
    (S.PREPARING, S.COMMITTING),
    (S.PREPARING, S.DRAINING),
    (S.PREPARING, S.FAILED),
    (S.COMMITTING, S.READY),
    (S.COMMITTING, S.PREPARING),
    (S.COMMITTING, S.DRAINING),
    (S.COMMITTING, S.FAILED),
    (S.DRAINING, S.FAILED),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
def test_only_the_listed_transitions_are_possible(old: ReplicaState, new: ReplicaState) -> None:
    lifecycle = Lifecycle()
    lifecycle.state = old
    if (old, new) in ALLOWED:
        lifecycle.enter(new, "why")
        assert (lifecycle.state, lifecycle.reason) == (new, "why")
    else:
        with pytest.raises(IllegalTransition, match=f"{old} can't become {new}"):
            lifecycle.enter(new)
        assert lifecycle.state is old


def test_every_state_is_in_the_table_and_failed_can_be_reached_from_all() -> None:
    assert set(TRANSITIONS) == set(S)
    for state in S:
        lifecycle = Lifecycle()
        lifecycle.state = state
        lifecycle.fail("gone")
        assert lifecycle.state is S.FAILED


def test_the_first_reason_of_a_failure_stays() -> None:
    lifecycle = Lifecycle()
    lifecycle.fail("first")
    lifecycle.fail("second")
    assert lifecycle.reason == "first"


@pytest.mark.parametrize("state", list(S))
def test_recommendations_are_taken_while_a_release_is_staged_or_committed(state: ReplicaState) -> None:
    lifecycle = Lifecycle()
    lifecycle.state = state
    assert lifecycle.serving == (state in {S.READY, S.PREPARING, S.COMMITTING})
