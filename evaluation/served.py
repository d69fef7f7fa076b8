"""That the evaluation measures what is served: sampled lists of a scorer against those of a serving engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from catalogue.datasets import Dataset
from catalogue.protocol import Block
from contracts.replica import RankRequest
from evaluation.ours import ModelScorer
from evaluation.record import K
from recommender.loading import save_recommender
from serving.engine import Engine, EngineSettings
from serving.torch_engine import TorchEngine

TOLERANCE = 1e-3
"""Items whose scores are nearer than this may change places: fp32 sums differ with the batch's shape."""


@dataclass(frozen=True)
class Agreement:
    """How many lists were compared, and how many agreed."""

    compared: int
    agreed: int


def sample_blocks(blocks: Sequence[Block], count: int, seed: int = 0) -> list[Block]:
    """`count` of the blocks, or all when there are fewer, drawn without replacement."""
    drawn = np.random.default_rng(seed).permutation(len(blocks))[:count]
    return [blocks[number] for number in np.sort(drawn)]


async def agreement(scorer: ModelScorer, blocks: Sequence[Block], folder: Path, dataset: Dataset) -> Agreement:
    """Serve the scorer's weights from `folder` and ask the engine for each block's list, seen items excluded."""
    save_recommender(scorer.recommender, folder)
    engine = TorchEngine(EngineSettings(model_dir=folder))
    await engine.start(1)
    try:
        agreed = 0
        for block in blocks:
            agreed += await _agrees(engine, scorer, block, dataset)
        return Agreement(len(blocks), agreed)
    finally:
        await engine.close()


async def _agrees(engine: Engine, scorer: ModelScorer, block: Block, dataset: Dataset) -> bool:
    """Whether the engine's list is the evaluation's, up to places that near-equal scores may swap."""
    history = [dataset.items[item].item_id for item in block.history]
    request = RankRequest(request_id="eval", history=history, num_results=K, exclude=history)
    served = (await engine.recommend(request)).items
    scores = scorer.score([block])[0]
    scores[torch.from_numpy(block.history.astype(np.int64))] = -torch.inf
    own = dict(zip(dataset.item_ids, scores.tolist(), strict=True))
    best = scores.topk(len(served)).values.tolist()
    return all(
        abs(item.score - own[item.item_id]) <= TOLERANCE and abs(own[item.item_id] - wanted) <= TOLERANCE
        for item, wanted in zip(served, best, strict=True)
    )
