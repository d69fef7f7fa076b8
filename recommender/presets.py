"""Sizes of models that are trained from nothing: Qwen3's layout, tied embeddings.

Every preset splits over tensor-parallel 2 and pipeline-parallel 2 (≥ 2 KV heads, ≥ 2 layers), and its head
dimension is one that vLLM's CPU and CUDA attention support (32, 64, 128).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen3Config

    from recommender.vocabulary import ItemVocabulary


@dataclass(frozen=True)
class Preset:
    """One size.

    Attributes:
        hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim: as in Qwen3Config.
        window: items of history in a prompt.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int


PRESETS: dict[str, Preset] = {
    "tiny": Preset(64, 128, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=32, window=50),
    "medium": Preset(128, 256, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=32, window=50),
    "wide": Preset(256, 512, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=64, window=200),
    "broad": Preset(1024, 1024, num_layers=2, num_heads=8, num_kv_heads=8, head_dim=128, window=200),
    "small": Preset(768, 2048, num_layers=12, num_heads=12, num_kv_heads=4, head_dim=64, window=256),
    "base": Preset(1024, 3072, num_layers=28, num_heads=16, num_kv_heads=8, head_dim=128, window=512),
}
"""`tiny` trains in a minute on 2 CPU cores. `wide` and `broad` are for long histories in which people take things
again: with more dimensions, more of what they copy can be told apart. `small` has 0.08 B parameters and `base` 0.44 B
beside the item rows.
"""


def qwen3_config(preset: Preset, vocabulary: ItemVocabulary, max_prompt_tokens: int, bos_token: int) -> Qwen3Config:
    """The Hugging Face configuration of `preset` over `vocabulary`."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=vocabulary.vocab_size,
        hidden_size=preset.hidden_size,
        intermediate_size=preset.intermediate_size,
        num_hidden_layers=preset.num_layers,
        num_attention_heads=preset.num_heads,
        num_key_value_heads=preset.num_kv_heads,
        head_dim=preset.head_dim,
        # One token is generated behind the prompt, and vLLM counts it.
        max_position_embeddings=max(64, -(-(max_prompt_tokens + 1) // 64) * 64),
        tie_word_embeddings=True,
        bos_token_id=bos_token,
        eos_token_id=None,
        pad_token_id=vocabulary.pad_token,
        architectures=["Qwen3ForCausalLM"],
        dtype="float32",
    )
