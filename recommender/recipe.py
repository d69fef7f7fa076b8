"""The settings that were measured: the defaults of `slipstream pretrain` and of the online trainer.

benchmarks/2026-11-24-recipe.md has the ablation.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec


class PretrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is trained on the past. Loss: full softmax over the items, mean over events.

    Attributes:
        epochs: passes over all events; `seconds` replaces it.
        batch_rows: windows in a step.
        learning_rate: AdamW's peak, reached after `warmup_steps` and lowered to `final_ratio` of it along a cosine.
        weight_decay: AdamW's, on every tensor.
        beta2: AdamW's second-moment decay.
        dropout: on the input embeddings and on what attention and MLP add to the residual stream.
        clip_norm: the gradient's largest norm.
        whole_block_share: share of the epochs in which a block's items are all asked for before the block, as they
            will be, instead of one after the other.
        mask_seen: what a user has had competes no more for the next event, as when it is served: else what most people
            have had long ago looks unlikely to everyone (ML-100K 0.1014 to 0.1088,
            benchmarks/2026-11-28-mask-seen.md). False where people take things again.
        seed: of the initial order, windows and dropout.
    """

    epochs: float = 20.0
    batch_rows: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    final_ratio: float = 0.05
    weight_decay: float = 0.1
    beta2: float = 0.98
    dropout: float = 0.2
    clip_norm: float = 5.0
    whole_block_share: float = 0.0
    mask_seen: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.whole_block_share <= 1:
            raise ValueError(f"whole_block_share={self.whole_block_share}: take a share, 0 to 1")


PRETRAIN = PretrainSettings()


ASYNC_BETA1 = 0.5
"""Of asynchronous workers. A push that others have overtaken moves the weights the way they were going before, which is
momentum (Mitliagkas et al. 2016), and what compression has kept back comes later still. Compressed pushes of two equal
workers end at 1.000 and 1.001 of synchronous training with it, from models of one and of eight epochs, at 0.961 and
0.971 with 0.9 (benchmarks/2026-11-28-async.md)."""


class OnlineRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stream is learned: pre-training goes on at half its peak rate, and the average of the weights serves.

    A few users fill a batch of the stream, and learning from them alone makes the model forget the others: it must see
    the past again in between. A constant rate leaves the weights noisy; their running average is not.

    Attributes:
        learning_rate: AdamW's, constant: a stream has no end to decay towards.
        betas, weight_decay: AdamW's, as in pre-training.
        second_moment: of each element, as AdamW's, or one of each tensor: see `shared_by`.
        clip_norm: gradients are scaled down to this L2 norm.
        dropout: as in pre-training, while a step is taken; scores have none.
        replay_windows: windows of past users' events that each step also learns; 0 for none.
        event_weight: weight of one new event against the mean over the replayed ones. Per event, so that a batch that
            closes early counts less; without replay the loss is the mean over the new events.
        whole_windows: learn the last window of each user who has new events, every item of it, instead of the new
            events alone: more of a sitting is learned while it goes on.
        mask_seen: as in pre-training.
        imprint: how far the row of an item with fewer than `imprint_below` events moves towards who took it, in mean
            row norms divided by its events and two more; 0 for no such moves. See `recommender.imprinting`.
        average: the weights that serve keep this share at a step and take the rest from those that learn; 0 serves the
            latter.
        seed: of dropout and replay.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    second_moment: Literal["element", "tensor"] = "element"
    weight_decay: float = 0.1
    clip_norm: float = 5.0
    dropout: float = 0.2
    replay_windows: int = 32
    event_weight: float = 1 / 64
    whole_windows: bool = True
    mask_seen: bool = True
    imprint: float = 0.35
    imprint_below: int = 20
    average: float = 0.98
    seed: int = 0

    def __post_init__(self) -> None:
        if self.imprint < 0:
            raise ValueError(f"imprint={self.imprint}: take 0 (none) or more")
        if not 0 <= self.average < 1:
            raise ValueError(f"average={self.average}: take 0 (none) up to below 1")
        if self.replay_windows < 0:
            raise ValueError(f"replay_windows={self.replay_windows}: take 0 (none) or more")

    def shared_by(self, workers: int, rounds: bool = False, compressed: bool = False) -> OnlineRecipe:
        """What each of several workers of one stream does, so that together they do what one would.

        Each has a share of the events in a batch, and replays a share of the past. Asynchronous pushes are steps of
        their own, `workers` times as many: a new event weighs as much more in each, their rate is lower by the square
        root (a smaller batch's gradient is noisier by as much; Malladi et al. 2022), the average keeps as much a
        second, and momentum is less, since steps that come late are momentum already (`ASYNC_BETA1`). In `rounds` the
        gradients of all are averaged into one step (`OnlineModel.gradients` weighs them), and nobody imprints: what is
        no gradient is not averaged. An asynchronous worker counts its own events alone, which are a share of an item's,
        and moves the less.

        Args:
            compressed: the rounds' gradients may go compressed. Error feedback saves an element up for tens of steps
                and then sends it at once: AdamW would take that for a large gradient, divide it away, and carry it on
                as momentum. One second moment a tensor and no momentum do not (benchmarks/2026-11-27-async.md).
        """
        share = msgspec.structs.replace(self, replay_windows=-(-self.replay_windows // workers))
        if compressed:
            share = msgspec.structs.replace(share, second_moment="tensor", betas=(0.0, self.betas[1]))
        if workers == 1:
            return share
        if rounds:
            return msgspec.structs.replace(share, imprint=0.0)
        return msgspec.structs.replace(
            share,
            event_weight=self.event_weight * workers,
            learning_rate=self.learning_rate / math.sqrt(workers),
            betas=(min(ASYNC_BETA1, self.betas[0]), self.betas[1]),
            average=self.average ** (1 / workers),
            imprint=self.imprint / workers,
        )


ONLINE = OnlineRecipe()
