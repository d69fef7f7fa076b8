"""What online learning is weighed against: the model retrained ten times over the stream, on all events so far.

Each retraining first finds its number of epochs by early stopping on the newest twentieth of what it knows, then
trains on all of it for so many. Only that second run's operations are counted: the search is given to it for nothing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from catalogue.protocol import Block
from catalogue.replay import Timeline, split
from evaluation.flops import Flops
from evaluation.ours import ModelScorer, newborn
from evaluation.scorer import Scorer
from evaluation.stream import prequential
from recommender.loading import Recommender
from recommender.pretrain import Pretrainer, Progress, pretrain
from recommender.recipe import PretrainSettings

TIMES = 10
VALIDATION_SHARE = 0.05
PATIENCE = 3
Start = Literal["scratch", "warm"]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Retraining:
    """How a model is made anew.

    Attributes:
        start: from random weights (`scratch`), or from those it has (`warm`).
        settings: `epochs` is the most a retraining may take.
        model: of a model from scratch: what `newborn` takes beside past and seed.
    """

    start: Start
    settings: PretrainSettings
    model: Mapping[str, Any] = field(default_factory=lambda: {"preset": "tiny"})


class RetrainedScorer(Scorer):
    """Frozen but for ten retrainings, evenly spaced over the events of a stream. It knows no event it was not shown.

    Attributes:
        flops: what the retrainings have cost so far.
        retrainings: how many there were.
    """

    batch_events = 512

    def __init__(
        self,
        recommender: Recommender,
        past: Timeline,
        stream_events: int,
        how: Retraining,
        report: Report = lambda text: None,
    ) -> None:
        """`recommender` has been trained on `past`; `stream_events` are to come."""
        self.flops = Flops(recommender)
        self.retrainings = 0
        self._past, self._how, self._report = past, how, report
        self._shown: list[Block] = []
        self._device = recommender.head.weight.device
        self._scorer = ModelScorer(recommender, past.dataset)
        self._due = [stream_events * number // (TIMES + 1) for number in range(1, TIMES + 1)]

    def score(self, blocks: Sequence[Block]) -> torch.Tensor:
        """The scores of the newest model."""
        return self._scorer.score(blocks)

    def learn(self, blocks: Sequence[Block]) -> None:
        """Give new items their tokens; retrain when it is time."""
        self._scorer.meet(blocks)
        self._shown.extend(blocks)
        shown = sum(len(block.items) for block in self._shown)
        if self._due and shown >= self._due[0]:
            self._due = [place for place in self._due if place > shown]
            self.retrainings += 1
            self._scorer = ModelScorer(self._retrained(extended(self._past, self._shown)), self._past.dataset)

    def _retrained(self, past: Timeline) -> Recommender:
        epochs = self._best_epochs(past)
        recommender = self._initial(past)
        with self.flops.counting(recommender, "all"):
            self._train(recommender, past, epochs)
        return recommender

    def _best_epochs(self, past: Timeline) -> float:
        """By early stopping on the newest events."""
        before, _ = split(past, 1 - VALIDATION_SHARE)
        recommender = self._initial(before)
        best, best_epoch = -1.0, 1.0

        def goes_on(epoch: int) -> bool:
            nonlocal best, best_epoch
            scorer = ModelScorer(_copy(recommender), past.dataset)
            score = float(prequential(scorer, past, len(before)).main.ndcg.mean())
            if score > best:
                best, best_epoch = score, float(epoch)
            return epoch - best_epoch < PATIENCE

        self._train(recommender, before, self._how.settings.epochs, goes_on)
        return best_epoch

    def _initial(self, past: Timeline) -> Recommender:
        if self._how.start == "warm":
            return _copy(self._scorer.recommender)
        fresh = newborn(past, seed=self._how.settings.seed, **self._how.model)
        fresh.model.to(self._device)
        return fresh

    def _train(
        self,
        recommender: Recommender,
        past: Timeline,
        epochs: float,
        goes_on: Callable[[int], bool] = lambda epoch: True,
    ) -> None:
        trainer = Pretrainer(recommender, past, msgspec.structs.replace(self._how.settings, epochs=epochs))
        done = 0

        def on_step(now: Progress) -> None:
            nonlocal done
            if int(now.epoch) > done:
                done = int(now.epoch)
                self._report(f"retraining {self.retrainings} of {TIMES}, epoch {done}, loss {now.loss:.3f}")
                if not goes_on(done):
                    trainer.epochs = now.epoch

        pretrain(trainer, on_step=on_step)


def extended(past: Timeline, blocks: Sequence[Block]) -> Timeline:
    """`past` with `blocks` behind it, over a data set that has no other event."""
    sizes = [len(block.items) for block in blocks]
    user = np.concatenate([past.user, np.repeat([block.user for block in blocks], sizes)]).astype(np.int32)
    timestamp = np.concatenate([past.timestamp, np.repeat([block.timestamp for block in blocks], sizes)])
    number = past.block[-1] + 1 + np.repeat(np.arange(len(blocks)), sizes)
    dataset = dataclasses.replace(
        past.dataset,
        user=user,
        item=np.concatenate([past.item, *(block.items for block in blocks)]),
        timestamp=timestamp.astype(np.int64),
        value=np.full(len(user), np.nan, np.float32),
        sequence=None,
    )
    return Timeline(dataset, np.arange(len(user)), np.concatenate([past.block, number]))


def _copy(recommender: Recommender) -> Recommender:
    return Recommender(copy.deepcopy(recommender.model).eval(), recommender.vocabulary, recommender.prompt)
