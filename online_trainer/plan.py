"""A batch is ranges of offsets; how they are chosen."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Share(msgspec.Struct, frozen=True):
    """Which of a topic's partitions are one reader's: each `of`-th, from `number` on."""

    number: int
    of: int

    def has(self, partition: int) -> bool:
        """Whether a partition is in it."""
        return partition % self.of == self.number


WHOLE = Share(0, 1)


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True, tag="plan", omit_defaults=True):
    """What one batch holds.

    Attributes:
        number: 1, 2, 3, … without gaps.
        ranges: partition → (first offset, end offset); the records between them, where there are any. Applied in
            ascending order of partition, then offset.
        compressed: how a synchronous group sends the round's gradients; None where nobody is sent any.
    """

    number: int
    ranges: dict[int, tuple[int, int]]
    compressed: bool | None = None

    def advanced(self, offsets: Mapping[int, int]) -> dict[int, int]:
        """`offsets` (next ones, by partition) after this plan."""
        return dict(offsets) | {partition: end for partition, (_, end) in self.ranges.items()}


def share_out(available: Mapping[int, int], size: int) -> dict[int, int]:
    """How many of each partition's waiting offsets a batch of `size` takes: in proportion, by largest remainder.

    In proportion, so that a backlog is worked off at about one pace in event time whatever the partitions' lengths
    (rounding is not carried over: a partition may run ahead by about 1/size of the backlog). A function of its
    arguments alone: on a log that stands still the plans can be repeated. Ties go to the lower partition.
    """
    total = sum(available.values())
    size = min(size, total)
    if not size:
        return {}
    shares = {partition: waiting * size // total for partition, waiting in sorted(available.items())}
    by_remainder = sorted(shares, key=lambda partition: (-(available[partition] * size % total), partition))
    for partition in by_remainder[: size - sum(shares.values())]:
        shares[partition] += 1
    return {partition: share for partition, share in shares.items() if share}
