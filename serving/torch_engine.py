"""`TorchEngine`: the same seam in plain PyTorch, one process and no batching; the oracle for every vLLM layout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contracts.replica import RankAnswer, RankRequest, ScoredItem, SwapReport
from recommender.loading import Recommender, checkpoint_tensors, load_recommender, load_tensors
from recommender.scoring import score_histories, top_items
from releases.bundle import WeightBundle
from serving.checkpoint import checkpoint_shapes, refuse_foreign
from serving.engine import Engine, EngineDead, EngineSettings, SwapRefused
from serving.fingerprint import combine, fingerprint
from serving.ranking_plan import RankingPlan, plan_ranking, scored_items
from serving.raw_tensors import as_tensor
from serving.release_items import ReleaseItems
from serving.swap_gate import SwapGate
from serving.swap_history import Stamped, SwapHistory, swap_report

Weights = dict[str, Tensor]


class TorchEngine(Engine):
    """Runs the Hugging Face model itself, a recommendation at a time, on the CPU.

    Raises:
        ValueError: a layout of more than one rank; this engine has one.
    """

    def __init__(self, settings: EngineSettings) -> None:
        if settings.tensor_parallel * settings.pipeline_parallel != 1:
            raise ValueError("the torch engine runs on one rank; use --engine vllm for tensor or pipeline parallelism")
        self.settings = settings
        self._gate = SwapGate()
        self._history = SwapHistory()
        self._one_at_a_time = asyncio.Lock()
        self._model: Any
        self._items: ReleaseItems
        self._staged: Weights = {}
        self._previous: Weights = {}

    @property
    def version(self) -> int | None:
        return self._history.version

    @property
    def known_items(self) -> Sequence[str]:
        return self._items.live.vocabulary.item_ids

    @property
    def in_flight(self) -> int:
        return self._gate.in_flight

    async def start(self, version: int) -> None:
        dtype = getattr(torch, self.settings.dtype)
        self._shapes = checkpoint_shapes(self.settings.model_dir)
        loaded = await asyncio.to_thread(load_recommender, self.settings.model_dir, dtype)
        self._model, self._items = loaded.model, ReleaseItems(loaded.prompt)
        self._history.begin(version, self._live_checksum())

    async def recommend(self, request: RankRequest) -> RankAnswer:
        async with self._gate.recommendation():
            version = self._history.serving()
            started = time.perf_counter()
            plan = plan_ranking(request, self._items.live)
            async with self._one_at_a_time:
                items = await asyncio.to_thread(self._rank, request.history, plan) if plan.num_results else []
            return RankAnswer(model_version=version, items=items, engine_ms=(time.perf_counter() - started) * 1e3)

    async def stage(self, bundle: WeightBundle) -> None:
        self._history.unstage()
        refuse_foreign(bundle, self._shapes)
        self._items.stage(bundle.manifest)
        weights = await asyncio.to_thread(self._weights, bundle)
        self._staged = weights
        self._history.stage(bundle.manifest.version, _checksum(weights))

    async def commit(self, version: int) -> SwapReport:
        async with self._gate.swap() as drain_ms:
            started, target = time.perf_counter(), self._history.staged(version)
            self._previous = self._replace_live(target, self._staged)
            self._staged = {}
            self._items.committed()
            return swap_report(target, self._history.committed(), drain_ms, started)

    async def roll_back(self) -> SwapReport:
        async with self._gate.swap() as drain_ms:
            started, target = time.perf_counter(), self._history.previous()
            self._replace_live(target, self._previous)
            self._previous = {}
            self._items.rolled_back()
            return swap_report(target, self._history.rolled_back(), drain_ms, started)

    async def checksum(self) -> tuple[int, str]:
        async with self._gate.recommendation():
            return self._history.serving(), self._live_checksum()

    async def close(self) -> None:
        """Nothing to end: the model lives in this process."""

    def _rank(self, history: list[str], plan: RankingPlan) -> list[ScoredItem]:
        prompt = self._items.live
        scores = score_histories(Recommender(self._model, prompt.vocabulary, prompt), [history])[0]
        exclude = set(plan.excluded.tolist())
        if plan.candidates is not None:
            exclude |= set(range(len(scores))) - set(plan.candidates.tolist())
        best = top_items(scores, plan.num_results, exclude)
        return scored_items(prompt.vocabulary, [item for item, _ in best], [score for _, score in best])

    def _weights(self, bundle: WeightBundle) -> Weights:
        own = checkpoint_tensors(self._model)
        return {name: as_tensor(bundle.tensors[name]).to(tensor.dtype).clone() for name, tensor in own.items()}

    def _replace_live(self, target: Stamped, weights: Weights) -> Weights:
        """With the gate closed: copy in and verify, or copy back and raise SwapRefused. Returns the old weights."""
        model = self._model
        kept = {name: tensor.clone() for name, tensor in checkpoint_tensors(model).items()}
        load_tensors(model, weights)
        if self._live_checksum() == target[1]:
            return kept
        load_tensors(model, kept)
        if self._live_checksum() != self._history.restored():
            raise EngineDead(f"a swap failed and version {self.version} could not be restored")
        raise SwapRefused(f"release {target[0]} was not applied: its weights changed after staging")

    def _live_checksum(self) -> str:
        return _checksum(checkpoint_tensors(self._model))


def _checksum(weights: Weights) -> str:
    return combine([fingerprint(sorted(weights.items()))])
