"""New recommenders: a preset with random weights, or any Hugging Face causal LM with item tokens added."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from contracts.item import Item
from recommender.loading import Recommender
from recommender.presets import PRESETS, qwen3_config
from recommender.prompt import Prompt, PromptTemplate
from recommender.vocabulary import ItemVocabulary

PAD_TOKEN, BOS_TOKEN, FIRST_ITEM_TOKEN = 0, 1, 2
"""Tokens of an item-only model."""


def preset_recommender(
    preset_name: str, items: Sequence[Item], seed: int = 0, reserved_slots: int | None = None
) -> Recommender:
    """An item-only model of a preset's size with random weights: prompts are `[BOS] item item …`.

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
    prompt = Prompt(PromptTemplate(prefix=(BOS_TOKEN,), window=preset.window), vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(qwen3_config(preset, vocabulary, prompt.max_tokens, BOS_TOKEN))
    return Recommender(model.eval(), vocabulary, prompt)
