"""Small real models: a preset's, and base LMs of three architectures with a BPE tokenizer trained on titles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contracts.item import Item
from recommender.initialise import preset_recommender
from recommender.loading import Recommender

TITLES = ("Toy Story", "Toy Soldiers", "Star Wars", "Star Trek", "The Star", "Fargo", "Heat", "Dead Man", "Clerks", "")


@pytest.fixture(scope="session")
def items() -> list[Item]:
    """Twenty items, some titles shared, some empty."""
    return [Item(item_id=f"i{n}", title=TITLES[n % len(TITLES)], categories=(f"c{n % 3}",)) for n in range(20)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """These models are too small for two, which wait for each other when the machine is busy."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny(items: list[Item]) -> Recommender:
    """The `tiny` preset over the items, random weights."""
    return preset_recommender("tiny", items, seed=1)


@pytest.fixture(scope="session")
def make_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a small causal LM (`llama`: untied, with a start token; `qwen3`, `gpt2`: tied) and returns its folder."""

    def make(kind: str) -> Path:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import (
            GPT2Config,
            GPT2LMHeadModel,
            LlamaConfig,
            LlamaForCausalLM,
            PreTrainedTokenizerFast,
            Qwen3Config,
            Qwen3ForCausalLM,
        )

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
        tokenizer.train_from_iterator(TITLES, trainer)
        if kind == "llama":
            tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        words = tokenizer.get_vocab_size()
        torch.manual_seed(5)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        if kind == "llama":
            config = LlamaConfig(vocab_size=words, tie_word_embeddings=False, max_position_embeddings=256, **sizes)
            model = LlamaForCausalLM(config)
        elif kind == "qwen3":
            config = Qwen3Config(
                vocab_size=words, tie_word_embeddings=True, num_key_value_heads=2, head_dim=32, **sizes
            )
            model = Qwen3ForCausalLM(config)
        else:
            model = GPT2LMHeadModel(GPT2Config(vocab_size=words, n_embd=32, n_layer=2, n_head=2, n_positions=256))
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
        return folder

    return make
