"""Every routing policy keeps the seam's contract; least-loaded balances."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from gateway.routing import LeastLoaded, RoutingPolicy


@dataclass
class Load:
    name: str
    in_flight: int


POLICIES = [LeastLoaded(random.Random(0))]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_policy_always_names_a_candidate(policy: RoutingPolicy) -> None:
    for count in range(1, 5):
        candidates = [Load(str(i), i) for i in range(count)]
        assert all(0 <= policy.choose(str(key), candidates) < count for key in range(50))


def test_of_two_the_less_loaded_is_taken() -> None:
    policy = LeastLoaded(random.Random(0))
    assert all(policy.choose("u", [Load("busy", 3), Load("idle", 0)]) == 1 for _ in range(50))


def test_equal_loads_share() -> None:
    policy = LeastLoaded(random.Random(0))
    taken = [policy.choose("u", [Load("a", 0), Load("b", 0)]) for _ in range(1000)]
    assert 400 < sum(taken) < 600


def test_the_worst_of_three_is_never_taken() -> None:
    policy = LeastLoaded(random.Random(0))
    loads = [Load("a", 0), Load("b", 1), Load("c", 9)]
    assert {policy.choose("u", loads) for _ in range(200)} == {0, 1}
