"""How a batch's offsets are shared out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from online_trainer.plan import BatchPlan, share_out

waiting = st.dictionaries(st.integers(0, 9), st.integers(0, 500), max_size=6)


@given(waiting, st.integers(1, 100))
def test_shares_fill_the_batch_and_never_exceed_what_waits(available: dict[int, int], size: int) -> None:
    shares = share_out(available, size)
    assert sum(shares.values()) == min(size, sum(available.values()))
    assert all(0 < share <= available[partition] for partition, share in shares.items())


@given(waiting, st.integers(1, 100))
def test_shares_are_within_one_of_the_proportion(available: dict[int, int], size: int) -> None:
    total = sum(available.values())
    size = min(size, total)
    shares = share_out(available, size)
    for partition, count in available.items():
        assert abs(shares.get(partition, 0) - count * size / max(1, total)) < 1


@given(waiting, st.integers(1, 100), st.randoms(use_true_random=False))
def test_shares_do_not_depend_on_the_order_of_partitions(available: dict[int, int], size: int, random: object) -> None:
    keys = list(available)
    random.shuffle(keys)  # type: ignore[attr-defined]
    assert share_out({key: available[key] for key in keys}, size) == share_out(available, size)


@given(waiting, st.integers(16, 64))
def test_a_backlog_is_worked_off_whole_and_at_about_one_pace(available: dict[int, int], size: int) -> None:
    left = dict(available)
    total = sum(available.values())
    while sum(left.values()) >= size:
        for partition, share in share_out(left, size).items():
            left[partition] -= share
        ratio = sum(left.values()) / total
        assert all(abs(available[p] * ratio - left[p]) <= size / 2 + total / size for p in left)
    assert sum(share_out(left, size).values()) == sum(left.values())


def test_a_plan_moves_only_its_own_partitions() -> None:
    plan = BatchPlan(number=1, ranges={1: (5, 9)})
    assert plan.advanced({0: 3, 1: 5}) == {0: 3, 1: 9}
