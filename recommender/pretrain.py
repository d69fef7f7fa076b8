"""Pre-training on the past, resumable: a killed run goes on from its checkpoint and ends bit for bit the same."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from catalogue.replay import Timeline
from recommender.dropout import residual_dropout
from recommender.loading import Recommender, checkpoint_tensors, load_tensors
from recommender.prompt import Prompt
from recommender.recipe import PretrainSettings
from recommender.windows import PastEvents, Window, window_batch, window_loss

CHECKPOINT = "pretrain.pt"
CALIBRATION_STEPS = 20
"""Steps whose speed decides how many epochs fit into `--seconds`; the first few are slow and not counted."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `epoch` of `epochs` (fractions count), `step` so far, the last step's `loss`."""

    epoch: float
    epochs: float
    step: int
    loss: float


class Pretrainer:
    """One run over the events of a timeline. All state that a resumed run needs is in `state`."""

    def __init__(self, recommender: Recommender, line: Timeline, settings: PretrainSettings) -> None:
        self.recommender = recommender
        self.settings = settings
        self.epochs = settings.epochs
        self.step = 0
        self._past = PastEvents(recommender, line)
        if not len(self._past):
            raise ValueError("no event has an item of this model; pre-train on the data set the model was made for")
        self._epoch = 0
        self._offset = 0
        self._windows = self._draw()
        self._optimizer = torch.optim.AdamW(
            recommender.model.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        torch.manual_seed(settings.seed)

    @property
    def epoch(self) -> float:
        """Passes done, fractions counted."""
        return self._epoch + self._offset / len(self._windows)

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self.epoch >= self.epochs

    def train_step(self) -> float:
        """One optimizer step; returns its loss, NaN of a batch with nothing to ask for.

        The caller has the model in train mode, within `residual_dropout`.
        """
        rows = self._windows[self._offset : self._offset + self.settings.batch_rows]
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        batch = window_batch(self.recommender, rows, self.settings.mask_seen)
        # Cut blocks may leave nothing to ask for; the mean of no losses is not a number.
        loss = window_loss(self.recommender, batch) if len(batch.targets) else None
        if loss is not None:
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.recommender.model.parameters(), self.settings.clip_norm)
            self._optimizer.step()
        self.step += 1
        self._offset += len(rows)
        if self._offset == len(self._windows):
            self._epoch, self._offset = self._epoch + 1, 0
            self._windows = self._draw()
        return math.nan if loss is None else loss.item()

    def _draw(self) -> list[Window]:
        """This epoch's windows: a function of seed and epoch, so a checkpoint need not hold them."""
        generator = np.random.default_rng((self.settings.seed, self._epoch))
        whole_blocks = bool(generator.random() < self.settings.whole_block_share)
        return self._past.windows(self.recommender.prompt.window, generator, whole_blocks)

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine (Loshchilov & Hutter 2017) over the epochs."""
        own = self.settings
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.epoch / self.epochs)))
        warm_up = min(1.0, (self.step + 1) / own.warmup_steps)
        return own.learning_rate * warm_up * (own.final_ratio + (1 - own.final_ratio) * cosine)

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        return {
            "settings": msgspec.json.encode(self.settings).decode(),
            "events": len(self._past),
            "epochs": self.epochs,
            "position": (self.step, self._epoch, self._offset),
            "random": torch.get_rng_state(),
            "tensors": checkpoint_tensors(self.recommender.model),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: the checkpoint is of another run (settings, data or model).
        """
        own = self.state()
        if differs := [name for name in ("settings", "events") if state[name] != own[name]]:
            raise ValueError(
                f"the checkpoint is of a run with other {' and '.join(differs)}; give the same, or leave out --resume"
            )
        load_tensors(self.recommender.model, state["tensors"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epochs = state["epochs"]
        self.step, self._epoch, self._offset = state["position"]
        self._windows = self._draw()
        torch.set_rng_state(state["random"])

    def save(self, folder: Path) -> None:
        """Write the checkpoint: whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{CHECKPOINT}.partial"
        torch.save(self.state(), partial)
        os.replace(partial, folder / CHECKPOINT)

    def resume(self, folder: Path) -> bool:
        """Go on from the folder's checkpoint; False when there is none. Raises ValueError as `restore` does."""
        if not (folder / CHECKPOINT).exists():
            return False
        self.restore(torch.load(folder / CHECKPOINT, weights_only=True))
        return True


def counted(recommender: Recommender, line: Timeline) -> Recommender:
    """The same, whose vocabulary says how many of `line`'s events each item has."""
    known = PastEvents(recommender, line).item
    events = np.bincount(known, minlength=recommender.vocabulary.num_items).tolist()
    vocabulary = msgspec.structs.replace(recommender.vocabulary, item_events=tuple(events))
    return Recommender(recommender.model, vocabulary, Prompt(recommender.prompt.template, vocabulary))


def pretrain(
    trainer: Pretrainer,
    folder: Path | None = None,
    seconds: float | None = None,
    checkpoint_every_seconds: float = 20.0,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train until the epochs are over; the model ends in eval mode.

    Args:
        folder: where checkpoints go; None keeps none.
        seconds: choose the epochs so that training takes about this long on this machine, instead of the settings'.
            A resumed run keeps what was chosen.
    """
    model = trainer.recommender.model.train()
    start = saved = time.monotonic()
    calibrate = seconds is not None and trainer.step == 0
    with residual_dropout(model, trainer.settings.dropout):
        while not trainer.done:
            if calibrate and trainer.step == CALIBRATION_STEPS // 4:
                measured = (time.monotonic(), trainer.epoch)
            loss = trainer.train_step()
            if calibrate and seconds is not None and trainer.step == CALIBRATION_STEPS:
                now = time.monotonic()
                speed = (trainer.epoch - measured[1]) / (now - measured[0])
                trainer.epochs = trainer.epoch + max(0.0, seconds - (now - start)) * speed
            on_step(Progress(trainer.epoch, trainer.epochs, trainer.step, loss))
            if folder is not None and time.monotonic() - saved >= checkpoint_every_seconds:
                trainer.save(folder)
                saved = time.monotonic()
    if folder is not None:
        trainer.save(folder)
    model.eval()
