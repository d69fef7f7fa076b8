"""New recommenders: a preset with random weights, or any Hugging Face causal LM with item tokens added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from contracts.item import Item
from recommender.loading import Recommender
from recommender.presets import PRESETS, qwen3_config
from recommender.prompt import Prompt, PromptTemplate
from recommender.vocabulary import ItemVocabulary

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

COPY_GAIN, COPY_SHARPNESS = 2.0, 0.2
PAD_TOKEN, BOS_TOKEN, FIRST_ITEM_TOKEN = 0, 1, 2
"""Tokens of an item-only model."""


def preset_recommender(
    preset_name: str,
    items: Sequence[Item],
    seed: int = 0,
    reserved_slots: int | None = None,
    window: int | None = None,
    copying: float = COPY_GAIN,
) -> Recommender:
    """An item-only model of a preset's size with random weights: prompts are `[BOS] item item …`.

    Args:
        window: items of history in a prompt; None for the preset's.
        copying: gain of `start_by_copying`, where the shape of the first layer's attention allows that; 0 for a random
            start.

    Raises:
        ValueError: no such preset, no items, or an item twice.
    """
    if preset_name not in PRESETS:
        raise ValueError(f"no preset {preset_name!r}; choose one of {', '.join(PRESETS)}")
    from transformers import Qwen3ForCausalLM

    preset = PRESETS[preset_name]
    vocabulary = ItemVocabulary.build(
        [item.item_id for item in items], FIRST_ITEM_TOKEN, PAD_TOKEN, reserved_slots=reserved_slots
    )
    prompt = Prompt(PromptTemplate(prefix=(BOS_TOKEN,), window=window or preset.window), vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(qwen3_config(preset, vocabulary, prompt.max_tokens, BOS_TOKEN))
    if copying and preset.num_heads * preset.head_dim == preset.num_kv_heads * preset.head_dim == preset.hidden_size:
        start_by_copying(model, copying)
    return Recommender(model.eval(), vocabulary, prompt)


def start_by_copying(model: Qwen3ForCausalLM, gain: float = COPY_GAIN) -> None:
    """Let the first layer hand on the mean of what stands before, so that training need not find that out.

    Value and output projections start as multiples of the identity, and queries and keys so small that all positions
    weigh nearly the same. With tied embeddings the model then starts by ranking what is like the user's history (the
    mean of its embeddings against every item's, as in FISM: Kabbur, Ning & Karypis, KDD 2013), and what is in it
    first of all. NDCG@10 on 70-80 % of the timeline: ML-100K 0.096 to 0.100, Online Retail 0.038 to 0.044
    (benchmarks/2026-11-24-recipe-copying.md).

    Args:
        gain: of the value and of the output projection, so that what is handed on is the mean times its square. The
            mean of a long history is short (n unlike embeddings: 1/√n of one), and what each of its items adds must
            stand out from chance likeness (1/√d). 2 for 0.7: latest-small 0.0587 to 0.0622, ML-100K 0.1026 to 0.1038,
            frozen (benchmarks/2026-11-27-own-frequency.md).
    """
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for projection in (attention.v_proj, attention.o_proj):
            torch.nn.init.eye_(projection.weight).mul_(gain)
        attention.q_norm.weight.fill_(COPY_SHARPNESS)


def start_popular(recommender: Recommender, shares: Mapping[str, float], weight: float) -> None:
    """Let a model that starts by copying order by popularity what a history does not tell apart.

    The start token gets an embedding along a direction of its own, and every item a part of it in proportion to its
    share of the events. The first layer hands on the start token's embedding as it hands on the history's items', so
    that an item counts as often as the history has it, plus `weight` times its share: what ranks best without learning
    where people take things again. Untrained, `broad` at gain 8, Online Retail, 70-80 %: NDCG@10 0.0462 without,
    0.0493 with 30 (benchmarks/2026-11-28-popular-start.md).

    Args:
        shares: of all events, by item; others have none.
        weight: how many takings all events together are worth.
    """
    table = recommender.model.get_input_embeddings().weight
    vocabulary = recommender.vocabulary
    share = torch.tensor([shares.get(item_id, 0.0) for item_id in vocabulary.item_ids])
    own = torch.full((table.shape[1],), table.shape[1] ** -0.5)
    items = slice(vocabulary.item_tokens.start, vocabulary.item_tokens.start + len(share))
    with torch.no_grad():
        # What one taking adds to an item's score: its embedding's length.
        length = table[items].norm(dim=1).mean()
        table -= (table @ own)[:, None] * own
        table[recommender.prompt.template.prefix[0]] = length * own
        table[items] += weight * length * share[:, None] * own
