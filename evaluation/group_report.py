"""Asynchronous or not, compressed or dense, with and without a straggler: runs, kept, and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from catalogue.replay import Timeline
from evaluation.backlog import Checkpoint, Run
from evaluation.group import GroupRun, SimulatedGroup
from evaluation.rounds import RoundsRun, SimulatedRounds
from online_trainer.exchange.messages import Rule
from recommender.loading import Recommender, load_tensors
from recommender.prequential import frozen
from recommender.recipe import ONLINE, OnlineRecipe

Floats = NDArray[np.float64]
_BATCH_EVENTS = 64
"""Of all workers' batches together, as `slipstream train` shares them."""
_CHECKPOINTS = 8
_REACH = 0.98
_RESAMPLES = 2000
_GRID = 50
LIKE_FOR_LIKE = "sync, the compressed one's optimizer"
"""Dense, by the optimizer that compressed rounds have: what compression alone costs."""


def runs() -> list[Run]:
    """Side by side: equal workers, one of two four times slower, and one of three.

    Partitions move to the faster worker where asynchronous workers differ, as `slipstream train` has it; the
    synchronous straggler's stay, and everyone waits for it, as in plain DDP.
    """
    dense, compressed = Rule(compressed=False), Rule()
    slow = {0: 4.0}
    found: list[Run] = []
    for suffix, slowness in (("", {}), (", straggler", slow)):
        found += [
            RoundsRun("sync" + suffix, rule=dense, slow=dict(slowness)),
            GroupRun("async" + suffix, rule=dense, slow=dict(slowness), balanced=bool(slowness)),
            GroupRun("async compressed" + suffix, rule=compressed, slow=dict(slowness), balanced=bool(slowness)),
        ]
    found += [
        RoundsRun("sync compressed", rule=compressed),
        RoundsRun(LIKE_FOR_LIKE, rule=msgspec.structs.replace(dense, choose=True)),
        RoundsRun("sync of three, straggler", workers=3, rule=dense, slow=dict(slow)),
        GroupRun("async of three, straggler, balanced", workers=3, rule=dense, slow=dict(slow), balanced=True),
    ]
    return [replace(run, batch_events=-(-_BATCH_EVENTS // run.workers)) for run in found]


def recipe_of(run: Run, recipe: OnlineRecipe = ONLINE) -> OnlineRecipe:
    """What each of its workers does, as `slipstream train` shares `recipe` among them."""
    rounds = isinstance(run, RoundsRun)
    # A rule that may choose to compress has the optimizer for that.
    return recipe.shared_by(run.workers, rounds, compressed=rounds and (run.rule.compressed or run.rule.choose))


def file_name(run: Run, model: str, seed: int, events: int, test_events: int) -> str:
    """Of what `kept` keeps: another model, recipe or way to train has another name."""
    decides = repr((run, recipe_of(run), model)).encode()
    name = run.name.replace(", ", "-").replace(" ", "-")
    return f"{name}-{seed}-{events}-{test_events}-{hashlib.sha256(decides).hexdigest()[:8]}.npz"


@dataclass(frozen=True)
class Trained:
    """One run: what its weights score on the events behind the backlog.

    Attributes:
        seconds, events: `[C]` of each checkpoint, virtual seconds and events trained.
        ndcg: `[C, E]` NDCG@10 of each test event by the checkpoint's weights.
        user: `[E]`.
        sent_ratio: fp32 bytes over payload bytes.
        mean_staleness: of its pushes.
    """

    seconds: Floats
    events: Floats
    ndcg: Floats
    user: NDArray[np.int64]
    sent_ratio: float
    mean_staleness: float

    @property
    def final(self) -> Floats:
        """`[E]` by the last weights."""
        return self.ndcg[-1]

    def seconds_to(self, level: float) -> float:
        """Virtual seconds until the mean NDCG@10 first reaches `level`, between checkpoints by a straight line."""
        means = self.ndcg.mean(axis=1)
        for place, mean in enumerate(means):
            if mean >= level:
                if not place:
                    return float(self.seconds[0])
                part = (level - means[place - 1]) / (mean - means[place - 1])
                return float(self.seconds[place - 1] + part * (self.seconds[place] - self.seconds[place - 1]))
        return float("inf")


def train(load: Callable[[], Recommender], line: Timeline, start: int, stop: int, run: Run, seed: int) -> Trained:
    """Train the events from `start` to `stop`, score those behind `stop`."""
    group = _simulated(load(), line[:stop], start, run, seed)
    scorer = load()
    seconds, events, scores = [], [], []
    user: NDArray[np.int64] = np.empty(0, np.int64)

    def score(checkpoint: Checkpoint) -> None:
        nonlocal user
        load_tensors(scorer.model, group.layout.views(checkpoint.weights))
        found = frozen(scorer, line, stop)
        seconds.append(checkpoint.seconds)
        events.append(float(checkpoint.events))
        scores.append(found.ndcg)
        user = found.user.astype(np.int64)

    group.train(-(-(stop - start) // _CHECKPOINTS), score)
    return Trained(
        np.array(seconds), np.array(events), np.array(scores), user, group.dense_bytes / max(1, group.sent_bytes),
        float(np.mean(group.staleness)),
    )  # fmt: skip


def _simulated(
    recommender: Recommender, line: Timeline, start: int, run: Run, seed: int
) -> SimulatedGroup | SimulatedRounds:
    if isinstance(run, GroupRun):
        return SimulatedGroup(recommender, line, start, run, recipe_of(run), seed)
    assert isinstance(run, RoundsRun), "there is no third way"  # noqa: S101
    return SimulatedRounds(recommender, line, start, run, recipe_of(run), seed)


def kept(path: Path, make: Callable[[], Trained]) -> Trained:
    """What an earlier, interrupted call has left at `path`, else made now and left there."""
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **vars(made))
        temporary.rename(path)
    with np.load(path) as data:
        fields: dict[str, Any] = dict(data.items())
    fields["sent_ratio"], fields["mean_staleness"] = float(fields["sent_ratio"]), float(fields["mean_staleness"])
    return Trained(**fields)


def ratio(a: Sequence[Trained], b: Sequence[Trained], seed: int = 0) -> tuple[float, float]:
    """Final NDCG@10 of `a` over `b`, one run a seed, events paired; and the 95 % interval's lower end.

    Resamples (user, seed) pairs (percentile bootstrap, Efron 1979).
    """
    users = np.concatenate([one.user + 10**6 * number for number, one in enumerate(a)])
    _, inverse = np.unique(users, return_inverse=True)
    top = np.bincount(inverse, weights=np.concatenate([one.final for one in a]))
    bottom = np.bincount(inverse, weights=np.concatenate([one.final for one in b]))
    weights = np.random.default_rng(seed).multinomial(len(top), np.full(len(top), 1 / len(top)), size=_RESAMPLES)
    return float(top.sum() / bottom.sum()), float(np.quantile((weights @ top) / (weights @ bottom), 0.025))


Results = dict[str, list[Trained]]


def rows(results: Results) -> list[dict[str, Any]]:
    """The comparisons that the goals are about."""
    out: list[dict[str, Any]] = []

    def add(name: str, value: float, goal: float | None, baseline: str, unit: str = "ratio") -> None:
        out.append(
            {
                "name": name,
                "value": round(value, 5),
                "unit": unit,
                "goal": goal,
                "better": "higher",
                "baseline": baseline,
            }
        )

    level = _REACH * float(np.mean([one.final.mean() for one in results["sync"]]))
    for name, goal in (("async, straggler", 1.5), ("async compressed, straggler", 1.5)):
        slow = [one.seconds_to(level) for one in results["sync, straggler"]]
        fast = [one.seconds_to(level) for one in results[name]]
        add(
            f"time to {_REACH} of final, {name}",
            float(np.median(slow)) / max(1e-9, float(np.median(fast))),
            goal,
            "sync, straggler",
        )
    for name, baseline in (
        ("async, straggler", "sync"),
        ("async compressed, straggler", "sync"),
        ("sync compressed", "sync"),
        ("async compressed", "sync"),
        ("sync compressed", LIKE_FOR_LIKE),
    ):
        value, low = ratio(results[name], results[baseline])
        add(f"final NDCG@10, {name}", value, 0.995, baseline)
        add(f"final NDCG@10, {name}, lower bound", low, 0.97, baseline)
    for name, baseline, goal in (
        ("async", "sync", 0.9),
        ("async of three, straggler, balanced", "sync of three, straggler", 1.5),
    ):
        rate, base = (float(np.median([r.events[-1] / r.seconds[-1] for r in results[n]])) for n in (name, baseline))
        add(f"throughput, {name}", rate / base, goal, baseline)
    for name, found in results.items():
        for number, one in enumerate(found):
            add(f"NDCG@10, {name}, seed {number}", float(one.final.mean()), None, "", "ndcg")
        add(f"mean staleness, {name}", float(np.mean([one.mean_staleness for one in found])), None, "", "orders")
    add("payload bytes saved", float(np.mean([one.sent_ratio for one in results["async compressed"]])), None, "fp32")
    return out


class Curve(msgspec.Struct, frozen=True):
    """NDCG@10 of one run's checkpoints on the events behind the backlog, mean over seeds.

    Attributes:
        seconds: virtual, as many as the slowest seed has.
        ndcg: at each of them.
    """

    seconds: list[float]
    ndcg: list[float]


def curves(results: Results) -> dict[str, Curve]:
    """Run → its curve: what the JSON line keeps for a plot."""
    found = {}
    for name, seeds in results.items():
        grid = np.linspace(0, min(one.seconds[-1] for one in seeds), _GRID)
        means = np.mean([np.interp(grid, one.seconds, one.ndcg.mean(axis=1)) for one in seeds], axis=0)
        found[name] = Curve(grid.round(3).tolist(), means.round(6).tolist())
    return found


def plot(found: Mapping[str, Curve], path: Path) -> None:
    """NDCG@10 against virtual seconds, a line a run, as a picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, curve in found.items():
        axes.plot(curve.seconds, curve.ndcg, label=name, linestyle="--" if "straggler" in name else "-")
    axes.set(xlabel="virtual seconds", ylabel="NDCG@10 on the events behind the backlog")
    axes.legend(fontsize="x-small")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def read_curves(path: Path) -> dict[str, Curve]:
    """The curves in a file that `slipstream eval async --json` was written to.

    Raises:
        ValueError: there are none.
    """
    data = path.read_bytes().strip()
    # Standard output has a table before the line of JSON.
    data = data if data.startswith(b"{") else data.rpartition(b"\n")[2]
    try:
        return msgspec.json.decode(data, type=_Document).curves
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} has no curves ({error}): write it with slipstream eval async --json") from error


class _Document(msgspec.Struct):
    curves: dict[str, Curve]
