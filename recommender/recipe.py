"""The settings that were measured: the defaults of `slipstream pretrain` and of the online trainer.

benchmarks/2026-11-24-recipe.md has the ablation.
"""

from __future__ import annotations

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
    seed: int = 0


PRETRAIN = PretrainSettings()
