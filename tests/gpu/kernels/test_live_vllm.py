"""The delta scatter inside a running vLLM: bitwise what its own loader gives, undone bitwise, and how much faster.

Runs under pytest, and by itself: `python3 -m tests.gpu.kernels.test_live_vllm [base]` prints one JSON line.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kernels.delta import LiveModel, ModelDelta, StagedDelta, diff
from kernels.delta.vllm_layout import vllm_regions
from tests.serving_worlds import write_recommenders

NUM_ITEMS = 20_000
REPEATS = 20
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(300),
]


def test_scatter_is_the_loader(tmp_path: Path) -> None:
    """The numbers go to the output; run with `-s` to see them."""
    pytest.importorskip("vllm")
    print(json.dumps(measure("base", tmp_path)))


def measure(preset: str, directory: Path) -> dict[str, Any]:
    """Start vLLM on a preset, check the scatter in it, and return medians in milliseconds."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM

    [folder] = write_recommenders(directory, 1, NUM_ITEMS, preset)
    llm = LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=256,
        gpu_memory_utilization=0.3,
    )
    old = {name: tensor.bfloat16().cuda() for name, tensor in load_file(folder / "model.safetensors").items()}
    before = _answer(llm)
    [result] = llm.apply_model(lambda model: _check(model, old, lambda: _answer(llm), before))
    assert _answer(llm) == before
    return {"preset": preset, "device": torch.cuda.get_device_name()} | result


def _answer(llm: Any) -> list[tuple[int, float]]:
    """The five likeliest tokens after a fixed prompt, with their log-probabilities."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=5, detokenize=False)
    prompt = {"prompt_token_ids": list(range(10, 60))}
    [output] = llm.generate([prompt], params, use_tqdm=False)
    return sorted((token, logprob.logprob) for token, logprob in output.outputs[0].logprobs[0].items())


@torch.no_grad()
def _check(model: Any, old: dict[str, torch.Tensor], answer: Callable[[], Any], before: Any) -> dict[str, Any]:
    live = LiveModel(vllm_regions(model))
    original = [parameter.clone() for parameter in live.parameters]
    result: dict[str, Any] = {"elements": sum(tensor.numel() for tensor in old.values())}
    for share in (0.03, 0.01):
        new = {name: _changed(tensor, share) for name, tensor in old.items()}
        staged = live.stage(ModelDelta.of({name: diff(old[name], new[name]) for name in old}))
        live.scatter(staged)
        scattered = [parameter.clone() for parameter in live.parameters]
        assert live.verify()
        assert answer() != before, "the model answers as if nothing had been written"
        live.revert(staged)
        assert all(map(torch.equal, original, live.parameters)), "the undo log did not give back what was there"
        assert live.verify()
        result |= {f"{name}_{share}": value for name, value in _times(model, live, staged, new).items()}
        assert all(map(torch.equal, scattered, live.parameters)), "the scatter and vLLM's loader differ"
        model.load_weights(old.items())
        assert all(map(torch.equal, original, live.parameters))
    return result


def _times(model: Any, live: LiveModel, staged: StagedDelta, new: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Leaves `new` loaded by the model's own loader."""
    return {
        "changed": staged.positions.numel(),
        "scatter_ms": _median(lambda: live.scatter(staged), lambda: live.revert(staged)),
        "load_weights_ms": _median(lambda: model.load_weights(new.items()), None),
    }


def _changed(tensor: torch.Tensor, share: float) -> torch.Tensor:
    """`tensor` with the lowest bit of a random `share` of its elements flipped, and their sign."""
    flips = (torch.rand(tensor.shape, device=tensor.device) < share).to(torch.int16) * -32767
    return (tensor.view(torch.int16) ^ flips).view(torch.bfloat16)


def _median(action: Callable[[], Any], after: Callable[[], Any] | None) -> float:
    """Milliseconds of `action` on the GPU, `after` (not timed) taking it back; L2 is flushed before each."""
    flush = torch.empty(1 << 28, dtype=torch.int8, device="cuda")
    times = []
    for _ in range(REPEATS):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
        if after is not None:
            after()
    return statistics.median(times)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["base"]:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(measure(name, Path(scratch))), flush=True)
