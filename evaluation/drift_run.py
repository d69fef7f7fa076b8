"""The drift experiment: half-way through the stream half the users turn, and everyone has to find out.

Each scorer runs twice from the same weights, on the stream as it was and on the turned one. What is compared is the
turned users' NDCG@10 after the turn against the same events' without it. Items not turned are no part of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from catalogue.datasets import Dataset
from catalogue.protocol import Block
from catalogue.replay import Timeline
from evaluation.choices import CHOICE_SEED, Choices
from evaluation.drift import drifted, events_to_regain
from evaluation.methods import Fit, Settings
from evaluation.our_method import Ours, online_settings
from evaluation.ours import ModelScorer, OnlineScorer
from evaluation.record import Record
from evaluation.scorer import Scorer
from evaluation.stages import OpenedLog, Stage, configuration_hash, tuning_stage
from evaluation.stream import prequential
from recommender.examples import Interaction, UserUpdate, online_batch
from recommender.loading import Recommender
from recommender.training import online_loss

SGD_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
CLIP_NORM = 5.0


class PlainSgd(ModelScorer):
    """Online gradient descent on each batch's loss, full softmax as in pre-training: what ours must regain faster than.

    No momentum, no replay, no averaging.
    """

    def __init__(
        self, recommender: Recommender, dataset: Dataset, learning_rate: float, batch_events: int = 64
    ) -> None:
        super().__init__(recommender, dataset, batch_events)
        self._optimizer = torch.optim.SGD(recommender.model.parameters(), lr=learning_rate)

    def learn(self, blocks: Sequence[Block]) -> None:
        """Give new items their tokens, then one step."""
        self.meet(blocks)
        batch = online_batch(self.recommender, [self._asked(block) for block in blocks])
        online_loss(self.recommender, batch).backward()
        torch.nn.utils.clip_grad_norm_(self.recommender.model.parameters(), CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _asked(self, block: Block) -> UserUpdate:
        ids = self._dataset.item_ids
        window = block.history[-self.recommender.prompt.window :]
        return UserUpdate(
            [Interaction(ids[item], block.timestamp - 1.0) for item in window],
            [Interaction(ids[item], float(block.timestamp)) for item in block.items],
        )


@dataclass(frozen=True)
class Regained:
    """How one scorer fared.

    Attributes:
        before, low: NDCG@10 of the turned users after the turn: in the stream without it, and the lowest with it.
        events: of turned users until 90 % of the loss was regained; None when it was not.
    """

    scorer: str
    before: float
    low: float
    events: int | None


def run_drift(
    stage: Stage,
    settings: Settings,
    sgd_rate: float,
    seed: int,
    device: torch.device,
    window: int = 1000,
    report: Callable[[str], None] = lambda text: None,
) -> list[Regained]:
    """Ours online, plain SGD and frozen on the stage's stream, turned half-way."""
    first = Ours(online=False).pretrained(Fit(stage.past, seed, device, report=report), settings)
    turn = _block_start(stage.line, (stage.start + len(stage.line)) // 2)
    turned_line, turned = drifted(stage.line, turn, seed)

    def scorers(line: Timeline) -> dict[str, Callable[[], Scorer]]:
        past = line[: stage.start]
        own = online_settings(settings.get("online", {}), seed)
        return {
            "ours-online": lambda: OnlineScorer(_copy(first), past, own),
            "plain-sgd": lambda: PlainSgd(_copy(first), line.dataset, sgd_rate),
            "ours-frozen": lambda: ModelScorer(_copy(first), line.dataset),
        }

    found = []
    for name in scorers(stage.line):
        report(f"{name}: both streams")
        with_turn, without = (
            _after(prequential(scorers(line)[name](), line, stage.start).masked, turn, turned)
            for line in (turned_line, stage.line)
        )
        means = np.convolve(with_turn, np.full(window, 1 / window), mode="valid")
        events = events_to_regain(with_turn, float(without.mean()), window=window)
        found.append(Regained(name, float(without.mean()), float(means.min()), events))
    return found


def best_sgd_rate(stage: Stage, settings: Settings, seed: int, device: torch.device) -> float:
    """The rate that scores best on the stage's stream as it is: the baseline is tuned, on the tuning stage."""
    first = Ours(online=False).pretrained(Fit(stage.past, seed, device), settings)

    def ndcg(rate: float) -> float:
        scorer = PlainSgd(_copy(first), stage.line.dataset, rate)
        return float(prequential(scorer, stage.line, stage.start).main.ndcg.mean())

    return max(SGD_RATES, key=ndcg)


def regained_by_seed(
    dataset: Dataset, seeds: int, device: torch.device, folder: Path, report: Callable[[str], None]
) -> list[list[Regained]]:
    """The experiment on the last 20 %, for each seed; results stay in the folder and are not made again."""
    choices = Choices(folder / dataset.name / "prequential" / "choices.json")
    settings = choices.best(Ours.name) if choices.trials(Ours.name) else {}
    report("choosing plain SGD's rate on 70-80 %")
    rate = _chosen_rate(dataset, settings, device, folder)
    log, found = OpenedLog(folder / "opened.jsonl"), []
    for seed in range(seeds):
        configuration = {"protocol": "drift", "settings": settings, "sgd_rate": rate}
        path = folder / dataset.name / "drift" / f"{configuration_hash(configuration)}-s{seed}.json"
        if not path.exists():
            with log.final_stage(dataset, seed, configuration) as stage:
                rows = run_drift(stage, settings, rate, seed, device, report=report)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps([asdict(row) for row in rows]))
        found.append([Regained(**row) for row in json.loads(path.read_text())])
    return found


def drift_rows(found: Sequence[Sequence[Regained]]) -> list[dict[str, Any]]:
    """Rows of the JSON line: medians over seeds, where never counts as more than any number, and the share."""
    events = {
        name: [row.events if row.events is not None else np.inf for rows in found for row in rows if row.scorer == name]
        for name in ("ours-online", "plain-sgd")
    }
    medians = {name: float(np.median(values)) for name, values in events.items()}
    rows: list[dict[str, Any]] = [
        {"name": f"drift.{name}.events_to_regain", "value": _finite(value), "unit": "events", "better": "lower"}
        for name, value in medians.items()
    ]
    share = medians["ours-online"] / medians["plain-sgd"] if np.isfinite(medians["ours-online"]) else np.inf
    rows.append(
        {"name": "drift.ours_over_sgd", "value": _finite(share), "unit": "ratio", "goal": 0.5, "better": "lower"}
    )
    return [{"goal": None, "baseline": None, **row} for row in rows]


def _finite(value: float) -> float | None:
    """JSON has no infinity: null says never."""
    return value if np.isfinite(value) else None


def _chosen_rate(dataset: Dataset, settings: Settings, device: torch.device, folder: Path) -> float:
    path = folder / dataset.name / "drift" / f"sgd-rate-{configuration_hash(settings)}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(best_sgd_rate(tuning_stage(dataset, CHOICE_SEED), settings, CHOICE_SEED, device)))
    return float(json.loads(path.read_text()))


def _after(record: Record, turn: int, turned: NDArray[np.bool_]) -> NDArray[np.float64]:
    """NDCG@10 of the turned users' events after the turn, in order."""
    ndcg: NDArray[np.float64] = record.ndcg[(record.position >= turn) & turned[record.user]]
    return ndcg


def _block_start(line: Timeline, position: int) -> int:
    return int(np.searchsorted(line.block, line.block[position]))


def _copy(recommender: Recommender) -> Recommender:
    return Recommender(copy.deepcopy(recommender.model).eval(), recommender.vocabulary, recommender.prompt)
