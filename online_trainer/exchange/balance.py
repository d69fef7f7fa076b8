"""Who holds which partition, and how large each worker's batches are: from measured speeds. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

GAIN, GAIN_SECONDS = 1.3, 1.0
"""Partitions move only when the slowest worker's time falls by this factor and by so many seconds: a move costs a
hand-over of some tenths of a second, and speeds are measured with noise."""
_SMALLEST_BATCH = 4


def finish_time(holders: Mapping[int, str], loads: Mapping[int, float], speeds: Mapping[str, float]) -> float:
    """Seconds until the last worker is through with its partitions."""
    times = dict.fromkeys(speeds, 0.0)
    for partition, worker in holders.items():
        times[worker] += loads[partition] / speeds[worker]
    return max(times.values(), default=0.0)


def assign(
    holders: Mapping[int, str | None], loads: Mapping[int, float], speeds: Mapping[str, float]
) -> dict[int, str]:
    """Partition → worker.

    Longest processing time first on machines of different speed (Graham 1969): the partition with the most work goes
    where it would be finished first; ties to the present holder, then by name. What is held now stays, unless the new
    assignment finishes `GAIN` times and `GAIN_SECONDS` sooner.

    Args:
        holders: partition → present holder, None or one that is gone for an orphan.
        loads: partition → events of work, above 0.
        speeds: worker → events a second, above 0; exactly those that may hold partitions, at least one.
    """
    ideal = _longest_first(dict.fromkeys(holders, None), holders, loads, speeds)
    kept = {partition: worker for partition, worker in holders.items() if worker in speeds}
    present = _longest_first({p: kept.get(p) for p in holders}, holders, loads, speeds)
    idle = set(speeds) - set(present.values())
    now, then = finish_time(present, loads, speeds), finish_time(ideal, loads, speeds)
    worth = now > GAIN * then and now > GAIN_SECONDS + then
    # A worker that stands by without a partition is reason enough, if it would have one.
    spare = bool(idle) and then < now
    return ideal if worth or spare else present


def _longest_first(
    fixed: Mapping[int, str | None],
    holders: Mapping[int, str | None],
    loads: Mapping[int, float],
    speeds: Mapping[str, float],
) -> dict[int, str]:
    """`fixed` where it names a worker, the others placed one by one."""
    busy = dict.fromkeys(sorted(speeds), 0.0)
    placed: dict[int, str] = {}
    for partition, worker in fixed.items():
        if worker is not None:
            placed[partition] = worker
            busy[worker] += loads[partition]
    for partition in sorted((p for p in fixed if p not in placed), key=lambda p: (-loads[p], p)):
        work = loads[partition]
        best = min(busy, key=lambda w: ((busy[w] + work) / speeds[w], w != holders[partition], w))
        placed[partition] = best
        busy[best] += work
    return dict(sorted(placed.items()))


def batch_events(speeds: Mapping[str, float], size: int) -> dict[str, int]:
    """Worker → events of its batches: `size` for the fastest, in proportion for the others.

    A step of a slow worker then takes about as long as one of a fast worker, so that its updates are no staler.
    """
    fastest = max(speeds.values(), default=1.0)
    return {name: max(min(size, _SMALLEST_BATCH), round(size * speed / fastest)) for name, speed in speeds.items()}
