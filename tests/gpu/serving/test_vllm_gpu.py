"""vLLM's CUDA build: ranks as the oracle, swaps under load, tells one release from another, and how long it takes.

Runs under pytest, and by itself where there is neither pytest-asyncio nor our configuration:
`python3 -m tests.gpu.serving.test_vllm_gpu [small] [base]` prints one JSON line a preset.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from contracts.replica import RankAnswer, RankRequest
from recommender.loading import Recommender, load_recommender
from recommender.scoring import score_histories
from releases.bundle import WeightBundle
from serving.engine import EngineSettings
from serving.vllm_engine import VllmEngine
from tests.serving_worlds import bundle_of, histories, write_recommenders

NUM_ITEMS = 20_000
NOISE_FACTOR = 2.0
"""How many times plain PyTorch's own bf16 error an answer may be off. The error grows with depth (0.1 over 8 layers,
0.3 over 28), so it is measured beside the answers; another release's answers are off by tens of it."""
ASKERS = 64
QUIET_SECONDS = 5.0
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("preset", ["small", "base"])
def test_ranks_and_swaps_under_load(preset: str, tmp_path: Path) -> None:
    """The numbers go to the output; run with `-s` to see them."""
    print(json.dumps(asyncio.run(measure(preset, tmp_path))))


async def measure(preset: str, directory: Path) -> dict[str, Any]:
    """Start an engine, check it, and return what was measured."""
    model_dirs = write_recommenders(directory, 2, NUM_ITEMS, preset, scale=2.0)
    engine = VllmEngine(EngineSettings(model_dirs[0], dtype="bfloat16", max_num_seqs=256))
    started = time.perf_counter()
    try:
        await engine.start(1)
        result: dict[str, Any] = {"preset": preset, "start_seconds": time.perf_counter() - started}
        bundles = [bundle_of(model_dir, 1) for model_dir in model_dirs]
        answers: list[tuple[list[str], RankAnswer, float]] = []
        stop = asyncio.Event()
        askers = [asyncio.create_task(_ask(engine, answers, stop, number)) for number in range(ASKERS)]
        await asyncio.sleep(QUIET_SECONDS)
        quiet = len(answers)
        swaps, checksums = await _swaps(engine, bundles)
        stop.set()
        await asyncio.gather(*askers)
        accuracy = _check_answers(answers[::50], model_dirs)
        assert {answer.model_version for _, answer, _ in answers} == set(range(1, 8))
        assert len(set(checksums.values())) == 2
        assert all(checksums[version] == checksums[version + 2] for version in (2, 3, 4, 5))
        return (
            result
            | swaps
            | accuracy
            | {
                "device": torch.cuda.get_device_name(),
                "requests": len(answers),
                "requests_per_second_quiet": quiet / QUIET_SECONDS,
                "p99_quiet_ms": _p99([ms for _, _, ms in answers[:quiet]]),
                "p99_swapping_ms": _p99([ms for _, _, ms in answers[quiet:]]),
            }
        )
    finally:
        await engine.close()


async def _swaps(engine: VllmEngine, bundles: list[WeightBundle]) -> tuple[dict[str, float], dict[int, str]]:
    """Six swaps, half a second apart; medians in milliseconds, and each version's checksum."""
    times: dict[str, list[float]] = {"stage_ms": [], "drain_ms": [], "apply_ms": []}
    checksums = {}
    for version in range(2, 8):
        made = bundles[(version - 1) % 2]
        bundle = WeightBundle(msgspec.structs.replace(made.manifest, version=version), made.tensors)
        started = time.perf_counter()
        await engine.stage(bundle)
        times["stage_ms"].append((time.perf_counter() - started) * 1e3)
        report = await engine.commit(version)
        times["drain_ms"].append(report.drain_ms)
        times["apply_ms"].append(report.apply_ms)
        checksums[version] = report.checksum
        assert await engine.checksum() == (version, report.checksum)
        await asyncio.sleep(0.5)
    return {name: statistics.median(values) for name, values in times.items()}, checksums


async def _ask(
    engine: VllmEngine, answers: list[tuple[list[str], RankAnswer, float]], stop: asyncio.Event, number: int
) -> None:
    asked = histories(100, NUM_ITEMS)
    while not stop.is_set():
        history = asked[number % len(asked)]
        started = time.perf_counter()
        request = RankRequest(request_id="t", history=history, num_results=20, exclude=history)
        answer = await engine.recommend(request)
        answers.append((history, answer, (time.perf_counter() - started) * 1e3))
        number += 1


def _check_answers(answers: list[tuple[list[str], RankAnswer, float]], model_dirs: list[Path]) -> dict[str, float]:
    """Each answer against fp32 arithmetic on the weights of the version it names, and on the other release's."""
    oracles = [_oracle(model_dir, torch.float32) for model_dir in model_dirs]
    noise = max(
        _noise(oracle, _oracle(model_dir, torch.bfloat16))
        for oracle, model_dir in zip(oracles, model_dirs, strict=True)
    )
    worst, other = (
        [_error(answer, oracles[(answer.model_version - turn) % 2], history) for history, answer, _ in answers]
        for turn in (1, 0)
    )
    assert max(worst) < NOISE_FACTOR * noise, f"an answer is {max(worst)} off, plain bf16 {noise}"
    assert min(other) > NOISE_FACTOR * noise, "answers of two releases can't be told apart: the check proves nothing"
    return {"worst_score_error": max(worst), "plain_bf16_error": noise, "other_release_error": min(other)}


def _oracle(model_dir: Path, dtype: torch.dtype) -> Recommender:
    """The same weights rounded to bf16, computed with in `dtype` on the GPU by transformers."""
    recommender = load_recommender(model_dir)
    recommender.model.bfloat16().to(dtype).cuda()
    return recommender


def _noise(exact: Recommender, rounded: Recommender) -> float:
    """The largest difference of any score over every kind of history."""
    asked = histories(100, NUM_ITEMS)
    return float((score_histories(exact, asked) - score_histories(rounded, asked)).abs().max())


def _error(answer: RankAnswer, oracle: Recommender, history: list[str]) -> float:
    """How far the answer is from the oracle's: in its scores, and in what the items it chose lack to the best ones."""
    scores = score_histories(oracle, [history])[0].clone()
    index = oracle.vocabulary.index
    scores[[index[item] for item in history]] = -torch.inf
    best = scores.topk(len(answer.items)).values.tolist()
    found = [float(scores[index[item.item_id]]) for item in answer.items]
    assert len(answer.items) == 20 == len({item.item_id for item in answer.items})
    return max(
        max(abs(item.score - score), abs(want - score))
        for item, score, want in zip(answer.items, found, best, strict=True)
    )


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


if __name__ == "__main__":
    for name in sys.argv[1:] or ["small", "base"]:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(measure(name, Path(folder)))), flush=True)
