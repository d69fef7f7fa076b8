"""`VllmEngine`: recommends with vLLM's AsyncLLM, any tensor × pipeline layout, and swaps releases in place."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

from contracts.replica import RankAnswer, RankRequest, ScoredItem, SwapReport
from recommender.prompt import Prompt, PromptTemplate
from recommender.vocabulary import ItemVocabulary
from releases.bundle import WeightBundle
from serving import vllm_compat
from serving.checkpoint import Shapes, checkpoint_shapes, refuse_foreign
from serving.engine import Engine, EngineDead, EngineSettings, SwapRefused
from serving.fingerprint import combine
from serving.ranking_plan import RankingPlan, plan_ranking, scored_items
from serving.release_items import ReleaseItems
from serving.shared_file import SharedRelease
from serving.swap_gate import SwapGate
from serving.swap_history import Stamped, SwapHistory, swap_report

_FIRST_POLL_SECONDS = 0.005
_LAST_POLL_SECONDS = 0.1
_HEALTH_SECONDS = 0.25
_SHUTDOWN_SECONDS = 1.0
"""Then the processes are killed: they hold nothing that must be written."""


class VllmEngine(Engine):
    """One prefill a recommendation; the answer is vLLM's top-k over rows that `serving.item_ranking` has masked.

    The weights' side of a swap is `serving.weight_receiver`, in the workers; this side decides on all ranks' results.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._gate = SwapGate()
        self._staging = asyncio.Lock()
        self._history = SwapHistory()
        self._request_numbers = itertools.count()
        self._llm: Any = None
        self._items: ReleaseItems
        self._shapes: Shapes

    @property
    def version(self) -> int | None:
        return self._history.version

    @property
    def known_items(self) -> Sequence[str]:
        return self._items.live.vocabulary.item_ids

    @property
    def in_flight(self) -> int:
        """Recommendations being computed."""
        return self._gate.in_flight

    async def start(self, version: int) -> None:
        vllm_compat.prepare_environment(self.settings)
        model_dir = self.settings.model_dir
        vocabulary = ItemVocabulary.load(model_dir)
        prompt = Prompt(PromptTemplate.load(model_dir), vocabulary)
        self._items = ReleaseItems(prompt)
        self._shapes = checkpoint_shapes(model_dir)
        await asyncio.to_thread(vllm_compat.import_vllm)
        self._llm = vllm_compat.start_engine(self.settings, prompt)
        self._dead_error = vllm_compat.engine_dead_error()
        if self.settings.pipeline_parallel > 1:
            await self._rpc("slipstream_warm_up")
        digest = combine(await self._rpc("slipstream_checksum"))
        await self._generate(plan_ranking(RankRequest(request_id="warm-up", history=[]), prompt), 0)
        self._history.begin(version, digest)

    async def recommend(self, request: RankRequest) -> RankAnswer:
        async with self._gate.recommendation():
            version = self._history.serving()
            started = time.perf_counter()
            plan = plan_ranking(request, self._items.live)
            items = await self._generate(plan, version) if plan.num_results else []
            return RankAnswer(model_version=version, items=items, engine_ms=(time.perf_counter() - started) * 1e3)

    async def stage(self, bundle: WeightBundle) -> None:
        async with self._staging:
            self._history.unstage()
            refuse_foreign(bundle, self._shapes)
            self._items.stage(bundle.manifest)
            with await asyncio.to_thread(SharedRelease, bundle) as path:
                await self._rpc("slipstream_stage", path)
                results = await self._stage_results()
            self._history.stage(bundle.manifest.version, combine(_all_done(results)))

    async def commit(self, version: int) -> SwapReport:
        async with self._gate.swap() as drain_ms:
            started, expected = time.perf_counter(), self._history.staged(version)
            await self._exchange("slipstream_commit", expected)
            self._items.committed()
            return swap_report(expected, self._history.committed(), drain_ms, started)

    async def roll_back(self) -> SwapReport:
        async with self._gate.swap() as drain_ms:
            started, expected = time.perf_counter(), self._history.previous()
            await self._exchange("slipstream_roll_back", expected)
            self._items.rolled_back()
            return swap_report(expected, self._history.rolled_back(), drain_ms, started)

    async def checksum(self) -> tuple[int, str]:
        async with self._gate.recommendation():
            version = self._history.serving()
            return version, combine(await self._rpc("slipstream_checksum"))

    async def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown, timeout=_SHUTDOWN_SECONDS)

    async def wait_lost(self) -> str:
        while self._llm is None or not self._llm.errored:  # noqa: ASYNC110 (vLLM has a flag, no event)
            await asyncio.sleep(_HEALTH_SECONDS)
        return "vLLM's engine process is gone; its log says why"

    async def _generate(self, plan: RankingPlan, version: int) -> list[ScoredItem]:
        prompt, params = vllm_compat.one_token_request(plan, cache_salt=str(version))
        request_id = str(next(self._request_numbers))
        try:
            async for output in self._llm.generate(prompt, params, request_id):
                tokens, scores = vllm_compat.top_tokens(output, plan.num_results)
        except self._dead_error as error:
            raise EngineDead("vLLM's engine process is gone; restart the replica") from error
        vocabulary = self._items.live.vocabulary
        first = vocabulary.first_item_token
        return scored_items(vocabulary, [token - first for token in tokens], scores)

    async def _exchange(self, method: str, expected: Stamped) -> None:
        """With the gate closed: swap on every rank and verify, or put everything back and raise SwapRefused."""
        results = await self._rpc(method)
        failures = [f"rank {rank}: {text}" for rank, (status, text) in enumerate(results) if status != "done"]
        if not failures and combine(text for _, text in results) == expected[1]:
            return
        await self._restore()
        reason = failures[0] if failures else "the weights in memory are not those that were staged"
        raise SwapRefused(f"release {expected[0]} was not applied: {reason}; version {self.version} serves on")

    async def _restore(self) -> None:
        results = await self._rpc("slipstream_undo")
        if any(status != "done" for status, _ in results) or (
            combine(text for _, text in results) != self._history.restored()
        ):
            await self.close()
            raise EngineDead(f"a swap failed and version {self.version} could not be restored: {results}")

    async def _stage_results(self) -> list[tuple[str, str]]:
        """Ask the ranks until none is busy; each question costs an engine step's slot, so ask ever more rarely."""
        pause = _FIRST_POLL_SECONDS
        while True:
            await asyncio.sleep(pause)
            results: list[tuple[str, str]] = await self._rpc("slipstream_stage_result")
            if all(status != "busy" for status, _ in results):
                return results
            pause = min(pause * 2, _LAST_POLL_SECONDS)

    async def _rpc(self, method: str, *args: Any) -> list[Any]:
        """Call a `WeightReceiver` method on every rank; results in rank order."""
        try:
            return [
                tuple(result) if isinstance(result, list) else result
                for result in await self._llm.collective_rpc(method, args=args)
            ]
        except self._dead_error as error:
            raise EngineDead("vLLM's engine process is gone; restart the replica") from error


def _all_done(results: list[tuple[str, str]]) -> list[str]:
    """The ranks' fingerprints. Raises SwapRefused when one failed."""
    if failures := [f"rank {rank}: {text}" for rank, (status, text) in enumerate(results) if status != "done"]:
        raise SwapRefused(f"the release could not be taken in: {failures[0]}")
    return [text for _, text in results]
