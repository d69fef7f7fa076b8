"""Any Hugging Face causal LM as a recommender: its vocabulary gets item tokens, its prompt words and items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contracts.item import Item
from recommender.loading import Recommender
from recommender.prompt import Prompt, PromptTemplate
from recommender.scoring import hidden_states
from recommender.vocabulary import ItemVocabulary

PREFIX_TEXT = "A user chose these items, oldest first; the next one is always what the user chooses then:"
SEPARATOR_TEXT = ","


def base_recommender(
    base_dir: Path,
    items: Sequence[Item],
    window: int = 50,
    prefix_text: str = PREFIX_TEXT,
    separator_text: str = SEPARATOR_TEXT,
    reserved_slots: int | None = None,
) -> tuple[Recommender, Any]:
    """Extend the causal LM in `base_dir` with a token for each item, started from its title.

    Args:
        base_dir: a Hugging Face model folder with a tokenizer.
        prefix_text: words before the history; must give at least one token. separator_text: words behind each item.

    Returns:
        the recommender in fp32, and the base's tokenizer, which `add_items` needs for later titles.

    Raises:
        FileNotFoundError: `base_dir` is no model folder.
        ValueError: no token in the prefix, a window that the model's positions can't hold, or an architecture whose
            logits are not a linear head over the hidden state (capped or scaled logits).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (base_dir / "config.json").is_file():
        raise FileNotFoundError(
            f"{base_dir} is no Hugging Face model folder: it has no config.json; download one, tokenizer included"
        )
    tokenizer = AutoTokenizer.from_pretrained(base_dir, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, local_files_only=True).eval()
    words = model.get_input_embeddings().weight.shape[0]
    vocabulary = ItemVocabulary.build(
        [item.item_id for item in items], words, _pad_token(tokenizer), reserved_slots=reserved_slots
    )
    template = PromptTemplate(
        prefix=tuple(_tokenise(tokenizer, prefix_text, special=True)),
        separator=tuple(_tokenise(tokenizer, separator_text)),
        window=window,
        prefix_text=prefix_text,
        separator_text=separator_text,
    )
    prompt = Prompt(template, vocabulary)
    _check_positions(model.config, prompt)
    model.resize_token_embeddings(vocabulary.vocab_size, mean_resizing=False)
    recommender = Recommender(model, vocabulary, prompt)
    start_from_titles(recommender, items, tokenizer, words)
    _check_head(recommender)
    return recommender, tokenizer


def start_from_titles(recommender: Recommender, items: Sequence[Item], tokenizer: Any, words: int) -> None:
    """Set the rows of `items`, in embedding and head, to the mean over the tokens of their titles.

    An item whose title has no token starts from the mean over all `words` token rows, and so do the slots that are
    still reserved. Embedding and head are averaged each on its own; a tied head is the same tensor and done once.
    """
    vocabulary = recommender.vocabulary
    tokens = [vocabulary.token(item.item_id) for item in items]
    for rows in _row_tensors(recommender):
        rows[tokens] = title_rows(rows, items, tokenizer, words)
        rows[vocabulary.item_tokens.stop :] = rows[:words].mean(dim=0)


def title_rows(rows: Tensor, items: Sequence[Item], tokenizer: Any, words: int) -> Tensor:
    """For each item the mean over its title's rows, or over all `words` rows where the title has no token."""
    mean = rows[:words].mean(dim=0)
    titles = [_tokenise(tokenizer, item.title) for item in items]
    return torch.stack([rows[title].mean(dim=0) if title else mean for title in titles])


def _row_tensors(recommender: Recommender) -> list[Tensor]:
    """What has a row for each token: the embedding, an untied head, and the head's bias."""
    tensors = [recommender.model.get_input_embeddings().weight.detach()]
    if not recommender.tied:
        tensors.append(recommender.head.weight.detach())
    if recommender.head.bias is not None:
        tensors.append(recommender.head.bias.detach())
    return tensors


def _tokenise(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _pad_token(tokenizer: Any) -> int:
    """Any token does: padding stands on the right and is never read."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _check_positions(config: Any, prompt: Prompt) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and prompt.max_tokens + 1 > positions:
        raise ValueError(
            f"a window of {prompt.window} items makes prompts of {prompt.max_tokens} tokens, and the model has "
            f"{positions} positions; choose a smaller --window"
        )


def _check_head(recommender: Recommender) -> None:
    """The item softmax computes head(state) itself; refuse a model that does more to its logits."""
    tokens = torch.tensor([recommender.prompt.tokens_of([0])])
    with torch.inference_mode():
        whole = recommender.model(input_ids=tokens, use_cache=False).logits
        ours = recommender.head(hidden_states(recommender, tokens))
    if not torch.allclose(whole, ours, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"{type(recommender.model).__name__} scales or caps its logits behind the head, which the item softmax "
            "does not; choose a base model without"
        )
