"""The `Engine` seam: what computes a recommendation, and how its weights change under it.

Implementations: `serving.vllm_engine.VllmEngine` (vLLM's AsyncLLM, any tensor × pipeline layout) and
`serving.torch_engine.TorchEngine` (plain PyTorch, the oracle every layout must agree with).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.replica import RankAnswer, RankRequest, SwapReport
from releases.bundle import WeightBundle


class SwapRefused(Exception):
    """A release that can't be applied here: wrong base, other tensors, not staged, or a checksum that differs.

    The engine still serves what it served before.
    """


class EngineDead(Exception):
    """The engine can't serve any more; the replica must leave the pool and restart."""


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is laid out.

    Attributes:
        model_dir: a Hugging Face model folder with `items.json` beside it (`recommender.vocabulary`).
        tensor_parallel, pipeline_parallel: ranks a layer is split over, and stages the layers are split over.
        dtype: `float32` or `bfloat16`.
        max_num_seqs: recommendations in one engine step.
        cpu_cores: cores for this engine's workers on a CPU, e.g. `0` or `0|1`; empty leaves it to the engine.
        prefix_caching: whether a prompt's key-value cache is kept for the next that begins alike.
    """

    model_dir: Path
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    dtype: str = "float32"
    max_num_seqs: int = 64
    cpu_cores: str = ""
    prefix_caching: bool = False


class Engine(ABC):
    """Recommends with exactly one weight version at a time.

    Ordering: `recommend` may be called from many tasks at once. `commit` and `roll_back` wait until every
    recommendation in flight has its answer, hold back new ones meanwhile, and swap; so each answer is computed by
    one version, the one it names. `stage` may run beside both. All methods belong to one event loop.
    """

    @abstractmethod
    async def start(self, version: int) -> None:
        """Load `settings.model_dir`, whose weights are release `version`; returns when it can recommend."""

    @abstractmethod
    async def recommend(self, request: RankRequest) -> RankAnswer:
        """Rank for one history. An empty history ranks from the start token alone.

        Raises EngineDead.
        """

    @abstractmethod
    async def stage(self, bundle: WeightBundle) -> None:
        """Take a verified release and hold it ready for `commit`. Replaces what was staged before.

        Raises SwapRefused: tensors that are not this model's.
        """

    @abstractmethod
    async def commit(self, version: int) -> SwapReport:
        """Serve the staged `version`. On failure the old weights serve on (SwapRefused) or EngineDead is raised."""

    @abstractmethod
    async def roll_back(self) -> SwapReport:
        """Serve the version before the last commit again. Raises SwapRefused when there is none."""

    @abstractmethod
    async def checksum(self) -> tuple[int, str]:
        """(version, hex digest) over the live tensors, all ranks, read from the memory the engine computes with."""

    @abstractmethod
    async def close(self) -> None:
        """End the engine's processes. Idempotent."""

    async def wait_lost(self) -> str:
        """Returns, with the reason, when the engine can't serve any more; until then it waits."""
        return await asyncio.get_running_loop().create_future()

    @property
    @abstractmethod
    def version(self) -> int | None:
        """The version being served; None before `start` has returned."""

    @property
    @abstractmethod
    def known_items(self) -> Sequence[str]:
        """Item ids in the model's order."""
