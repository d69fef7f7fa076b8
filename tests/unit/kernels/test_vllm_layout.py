"""The mapping onto vLLM's parameters, against vLLM's own weight loaders: every rank of 1, 2, 4 and 8.

vLLM's real layers and loaders; only the two functions that say which rank this is are answered by the test, since
eight ranks would be eight processes.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from kernels.delta import LiveModel, ModelDelta, diff
from kernels.delta.repacked import RepackedModel
from kernels.delta.vllm_layout import RepackedLayers, vllm_regions

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm]

HIDDEN, HEADS, KV_HEADS, HEAD, MIDDLE, VOCABULARY = 64, 8, 2, 16, 96, 130


class Block(nn.Module):
    """The layers of one decoder block, the embedding and the norm, under vLLM's usual names."""

    packed_modules_mapping: ClassVar = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self) -> None:
        super().__init__()
        from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

        options = {"bias": False, "params_dtype": torch.float32}
        self.embed_tokens = VocabParallelEmbedding(VOCABULARY, HIDDEN, params_dtype=torch.float32)
        self.qkv_proj = QKVParallelLinear(HIDDEN, HEAD, HEADS, KV_HEADS, **{**options, "bias": True})
        self.o_proj = RowParallelLinear(HEADS * HEAD, HIDDEN, **options)
        self.gate_up_proj = MergedColumnParallelLinear(HIDDEN, [MIDDLE, MIDDLE], **options)
        self.down_proj = RowParallelLinear(MIDDLE, HIDDEN, **options)
        self.norm = nn.LayerNorm(HIDDEN)

    def load(self, checkpoint: dict[str, torch.Tensor]) -> None:
        """Load with vLLM's own loaders."""
        stacked = {
            f"{part}.{kind}": (self.qkv_proj, part[0], kind)
            for part in ("q_proj", "k_proj", "v_proj")
            for kind in ("weight", "bias")
        }
        stacked |= {
            f"{part}.weight": (self.gate_up_proj, number, "weight")
            for number, part in enumerate(("gate_proj", "up_proj"))
        }
        for name, tensor in checkpoint.items():
            if name in stacked:
                layer, shard, kind = stacked[name]
                parameter = getattr(layer, kind)
                parameter.weight_loader(parameter, tensor, shard)
            else:
                parameter = self.get_parameter(name)
                getattr(parameter, "weight_loader", lambda p, t: p.data.copy_(t))(parameter, tensor)


def checkpoint_of(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "embed_tokens.weight": (VOCABULARY, HIDDEN),
        "q_proj.weight": (HEADS * HEAD, HIDDEN),
        "k_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "v_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "q_proj.bias": (HEADS * HEAD,),
        "k_proj.bias": (KV_HEADS * HEAD,),
        "v_proj.bias": (KV_HEADS * HEAD,),
        "o_proj.weight": (HIDDEN, HEADS * HEAD),
        "gate_proj.weight": (MIDDLE, HIDDEN),
        "up_proj.weight": (MIDDLE, HIDDEN),
        "down_proj.weight": (HIDDEN, MIDDLE),
        "norm.weight": (HIDDEN,),
        "norm.bias": (HIDDEN,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def rank_of(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """`rank_of(t, T)` makes vLLM's layers believe they are rank t of T."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear, vocab_parallel_embedding

    def choose(rank: int, size: int) -> None:
        for module in (linear, vocab_parallel_embedding, parameter):
            monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda: rank, raising=False)
            monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: size, raising=False)

    with set_current_vllm_config(VllmConfig()):
        yield choose


def blank() -> Block:
    block = Block()
    for parameter in block.parameters():
        parameter.data.zero_()
    return block


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (0, 2), (1, 2), (3, 4), (5, 8), (7, 8)])
def test_a_scatter_equals_loading_the_new_checkpoint(rank: int, size: int, rank_of) -> None:  # type: ignore[no-untyped-def]
    rank_of(rank, size)
    old, expected = blank(), blank()
    before = checkpoint_of(1)
    after = {name: torch.where(torch.rand(t.shape) < 0.2, t + 1, t) for name, t in before.items()}
    old.load(before)
    expected.load(after)
    model = LiveModel(vllm_regions(old))
    staged = model.stage(ModelDelta.of({name: diff(before[name], after[name]) for name in before}))
    original = [parameter.detach().clone() for parameter in old.parameters()]
    model.scatter(staged)
    for (name, found), wanted in zip(old.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted), name
    assert model.verify()
    model.revert(staged)
    assert all(torch.equal(a, b) for a, b in zip(original, old.parameters(), strict=True)) and model.verify()


def test_repacked_layers_are_named_and_go_the_other_way(rank_of) -> None:  # type: ignore[no-untyped-def]
    rank_of(0, 1)
    served = blank()
    before = checkpoint_of(1)
    served.load(before)
    packed = {name: parameter.detach().clone() for name, parameter in served.named_parameters()}
    served.o_proj.weight.data = torch.empty(0)
    with pytest.raises(RepackedLayers, match=r"o_proj\.weight is empty"):
        vllm_regions(served)

    other = blank()
    other.load(before)
    kept = {name: tensor.clone() for name, tensor in before.items()}
    path = RepackedModel(kept, lambda tensors: other.load(dict(tensors)))
    after = {name: t + 1 if name == "up_proj.weight" else t for name, t in before.items()}
    undo = path.apply(ModelDelta.of({name: diff(before[name], after[name]) for name in before}))
    expected = blank()
    expected.load(after)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), expected.parameters(), strict=True))
    undo()
    assert all(torch.equal(parameter, packed[name]) for name, parameter in other.named_parameters())

    def refuse(tensors: object) -> None:
        raise RuntimeError("the engine said no")

    stubborn = RepackedModel(kept, refuse)
    checksum = stubborn.checksum()
    with pytest.raises(RuntimeError, match="said no"):
        stubborn.apply(ModelDelta.of({"norm.weight": diff(before["norm.weight"], before["norm.weight"] + 1)}))
    assert stubborn.checksum() == checksum and torch.equal(kept["norm.weight"], before["norm.weight"])
