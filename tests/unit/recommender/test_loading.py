"""The model folder: transformers reads it as it is, with this repository on the path; weights go in and out whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from contracts.item import Item
from recommender.initialise import COPY_GAIN, preset_recommender, start_popular
from recommender.loading import Recommender, checkpoint_tensors, load_recommender, load_tensors, save_recommender
from recommender.scoring import score_histories

ROOT = Path(__file__).parents[3]
READ_WITH_TRANSFORMERS = """
import sys, json, torch, kernels
from transformers import AutoModelForCausalLM
assert kernels.__file__.startswith(sys.argv[2]), kernels.__file__
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
with torch.inference_mode():
    logits = model(torch.tensor([[1, 2, 5]])).logits[0, -1]
print(json.dumps([type(model).__name__, torch.log_softmax(logits[2:22], 0).tolist()]))
"""


@pytest.mark.timeout(300)  # imports transformers in a fresh process: 5 s, minutes where the machine is full
def test_transformers_reads_the_folder_with_our_kernels_on_the_path(tiny: Recommender, tmp_path: Path) -> None:
    """`kernels` is also a Hugging Face package that transformers probes for; ours must not trip it."""
    save_recommender(tiny, tmp_path)
    command = [sys.executable, "-c", READ_WITH_TRANSFORMERS, str(tmp_path), str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    name, scores = json.loads(done.stdout)
    assert name == "Qwen3ForCausalLM"
    assert scores == pytest.approx(score_histories(tiny, [["i0", "i3"]])[0].tolist(), abs=1e-5)


def test_the_folder_holds_what_engines_read(tiny: Recommender, tmp_path: Path) -> None:
    save_recommender(tiny, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] > tiny.prompt.max_tokens
    assert (tmp_path / "generation_config.json").exists()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == checkpoint_tensors(tiny.model).keys()
    assert "lm_head.weight" not in checkpoint_tensors(tiny.model)


def test_weights_go_out_and_in_whole(tiny: Recommender, items: list[Item], tmp_path: Path) -> None:
    other = preset_recommender("tiny", items, seed=2)
    histories = [[], ["i1"], ["i2", "i3"]]
    assert not torch.equal(score_histories(tiny, histories), score_histories(other, histories))
    load_tensors(other.model, {name: t.clone() for name, t in checkpoint_tensors(tiny.model).items()})
    assert torch.equal(score_histories(tiny, histories), score_histories(other, histories))
    assert other.tied


def test_foreign_weights_change_nothing(tiny: Recommender) -> None:
    before = {name: tensor.clone() for name, tensor in checkpoint_tensors(tiny.model).items()}
    for wrong in (
        {name: tensor + 1 for name, tensor in before.items() if name != "model.norm.weight"},
        {name: tensor.double() + 1 for name, tensor in before.items()},
        {name: torch.zeros(3) if name == "model.norm.weight" else tensor + 1 for name, tensor in before.items()},
    ):
        with pytest.raises(ValueError, match="same model"):
            load_tensors(tiny.model, wrong)
    assert all(torch.equal(before[name], tensor) for name, tensor in checkpoint_tensors(tiny.model).items())


def test_a_folder_of_two_models_is_refused(tiny: Recommender, tmp_path: Path) -> None:
    save_recommender(tiny, tmp_path)
    preset_recommender("tiny", [Item(item_id=str(n)) for n in range(100)]).vocabulary.save(tmp_path)
    with pytest.raises(ValueError, match="mixes two models"):
        load_recommender(tmp_path)


def test_an_unknown_preset_is_named(items: list[Item]) -> None:
    with pytest.raises(ValueError, match="tiny, medium, wide, broad, small, base"):
        preset_recommender("huge", items)


def test_a_model_starts_by_ranking_what_is_in_the_history(items: list[Item]) -> None:
    """Without a step of training: the first layer hands on the mean of the history's embeddings."""
    many = [Item(item_id=f"m{number}") for number in range(300)]
    history = [f"m{number}" for number in range(40, 60)]

    def hits(copying: float) -> int:
        scores = score_histories(preset_recommender("wide", many, seed=5, copying=copying), [history])[0]
        return sum(40 <= item < 60 for item in scores.topk(20).indices.tolist())

    assert hits(COPY_GAIN) >= 15, "chance is 1.3"
    assert hits(0.0) <= 5
    assert preset_recommender("tiny", items, window=7).prompt.window == 7


def test_a_model_can_start_by_popularity_where_the_history_tells_nothing() -> None:
    many = [Item(item_id=f"m{number}") for number in range(300)]
    recommender = preset_recommender("broad", many, seed=5, copying=8.0)
    start_popular(recommender, {"m7": 0.04, "m8": 0.03}, 20.0)
    assert score_histories(recommender, [[]])[0].topk(2).indices.tolist() == [7, 8]
    history = [f"m{number}" for number in range(40, 60)]
    # 0.8 and 0.6 takings: before all that were not taken.
    assert {7, 8} < set(score_histories(recommender, [history])[0].topk(22).indices.tolist())
    plain = score_histories(preset_recommender("broad", many, seed=5, copying=8.0), [history])[0]
    assert not {7, 8} & set(plain.topk(22).indices.tolist())


@pytest.mark.parametrize("name", ["tiny", "medium", "wide", "broad", "small", "base"])
def test_presets_split_over_two_by_two_ranks(name: str) -> None:
    from recommender.presets import PRESETS

    preset = PRESETS[name]
    assert preset.num_layers % 2 == preset.num_heads % 2 == preset.num_kv_heads % 2 == 0
    assert preset.intermediate_size % 128 == 0
    assert preset.num_heads % preset.num_kv_heads == 0
    assert preset.head_dim in (32, 64, 128), "vLLM's CPU and CUDA attention both have these"
