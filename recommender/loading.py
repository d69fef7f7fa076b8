"""A recommender on disk and in memory: a Hugging Face model folder with `items.json` and `prompt.json` beside it.

transformers and vLLM load the folder as it is; a plain `dict[str, Tensor]` by checkpoint names goes in and out
of a live model, a tied head stored once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recommender.prompt import Prompt, PromptTemplate
from recommender.vocabulary import ItemVocabulary


@dataclass(frozen=True)
class Recommender:
    """A model and what gives its tokens a meaning.

    Attributes:
        model: a Hugging Face causal language model (`PreTrainedModel`).
    """

    model: Any
    vocabulary: ItemVocabulary
    prompt: Prompt

    @property
    def head(self) -> nn.Linear:
        """The output layer, `[vocab_size, hidden]`; shares its weight with the embedding when tied."""
        return self.model.get_output_embeddings()

    @property
    def tied(self) -> bool:
        """Whether head and embedding are one tensor."""
        return self.head.weight is self.model.get_input_embeddings().weight


def load_recommender(model_dir: Path, dtype: torch.dtype = torch.float32) -> Recommender:
    """Read a model folder, in eval mode on the CPU.

    Raises:
        FileNotFoundError: not a recommender. ValueError: files that do not fit one another.
    """
    from transformers import AutoModelForCausalLM

    _no_bars()
    vocabulary = ItemVocabulary.load(model_dir)
    prompt = Prompt(PromptTemplate.load(model_dir), vocabulary)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, local_files_only=True)
    rows = model.get_input_embeddings().weight.shape[0]
    if rows != vocabulary.vocab_size:
        raise ValueError(
            f"{model_dir}: the model has {rows} token rows, items.json says {vocabulary.vocab_size}; "
            "the folder mixes two models, write it again"
        )
    return Recommender(model.eval(), vocabulary, prompt)


def save_recommender(recommender: Recommender, model_dir: Path) -> None:
    """Write the folder; `items.json` last, so that a folder without it is known to be incomplete."""
    _no_bars()
    model_dir.mkdir(parents=True, exist_ok=True)
    recommender.model.save_pretrained(model_dir, safe_serialization=True)
    recommender.prompt.template.save(model_dir)
    recommender.vocabulary.save(model_dir)


def checkpoint_tensors(model: Any) -> dict[str, Tensor]:
    """The weights by checkpoint name, as in `model.safetensors`: detached, sharing memory, a tied head left out."""
    tied = {name for name, owner in _tied_names(model).items() if name != owner}
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in tied}


def item_tables(recommender: Recommender) -> dict[str, Tensor]:
    """Those of the checkpoint's tensors that have a row for each token: embedding, an untied head, its bias.

    Not told by their shape: a layer may happen to be as wide as the vocabulary.
    """
    head = recommender.head
    tables = {id(table) for table in (recommender.model.get_input_embeddings().weight, head.weight, head.bias)}
    stored = checkpoint_tensors(recommender.model)
    return {name: stored[name] for name, tensor in recommender.model.named_parameters() if id(tensor) in tables}


def load_tensors(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copy weights into the live model, in place.

    Raises:
        ValueError: names, shapes or dtypes that are not exactly the model's; nothing has been changed then.
    """
    own = checkpoint_tensors(model)
    if wrong := own.keys() ^ tensors.keys():
        raise ValueError(f"tensors {sorted(wrong)[:3]} are not those of this model; load weights of the same model")
    for name, target in own.items():
        if tensors[name].shape != target.shape or tensors[name].dtype != target.dtype:
            raise ValueError(
                f"{name} is {tensors[name].dtype}{list(tensors[name].shape)}, "
                f"the model's is {target.dtype}{list(target.shape)}; load weights of the same model"
            )
    for name, target in own.items():
        target.copy_(tensors[name])


def _tied_names(model: Any) -> dict[str, str]:
    """Checkpoint name → the first name that holds the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}


def _no_bars() -> None:
    """Our commands show their own progress; transformers' bars would tear it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
