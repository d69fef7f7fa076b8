"""Parameters laid out as vLLM holds Qwen3 0.6 B (596 M): fused QKV and gate-up, padded vocabulary, tied head."""

from __future__ import annotations

import torch

from kernels.delta.live import Region

HIDDEN, LAYERS, QUERY, KEY, MIDDLE, VOCABULARY = 1024, 28, 2048, 1024, 3072, 151_936


def stacked(names: list[tuple[str, int]], parameter: torch.Tensor) -> dict[str, list[Region]]:
    """Regions of checkpoint tensors that lie one under another in `parameter`: (name, rows) from the top."""
    regions, row = {}, 0
    for name, rows in names:
        regions[name] = [Region((rows, parameter.shape[1]), (0, rows), (0, parameter.shape[1]), parameter, row, 0)]
        row += rows
    return regions


def regions(
    device: torch.device | str, dtype: torch.dtype = torch.bfloat16, layers: int = LAYERS
) -> dict[str, list[Region]]:
    """Random live parameters and the regions of their checkpoint tensors, by checkpoint name."""

    def make(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device=device).normal_(0, 0.02)

    embedding = make(VOCABULARY, HIDDEN)
    found = {"model.embed_tokens.weight": [Region.whole(embedding)], "model.norm.weight": [Region.whole(make(HIDDEN))]}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        query_key_value = [
            (at + f"self_attn.{name}_proj.weight", rows) for name, rows in zip("qkv", (QUERY, KEY, KEY), strict=True)
        ]
        found |= stacked(query_key_value, make(QUERY + 2 * KEY, HIDDEN))
        found |= stacked(
            [(at + f"mlp.{name}_proj.weight", MIDDLE) for name in ("gate", "up")], make(2 * MIDDLE, HIDDEN)
        )
        found[at + "self_attn.o_proj.weight"] = [Region.whole(make(HIDDEN, QUERY))]
        found[at + "mlp.down_proj.weight"] = [Region.whole(make(HIDDEN, MIDDLE))]
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[at + name + ".weight"] = [Region.whole(make(HIDDEN))]
        for name in ("q_norm", "k_norm"):
            found[at + f"self_attn.{name}.weight"] = [Region.whole(make(128))]
    return found
