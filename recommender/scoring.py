"""Scoring whole catalogues: one prefill over a history ranks every item. This is the oracle's arithmetic."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from recommender.loading import Recommender


def score_histories(recommender: Recommender, histories: Sequence[Sequence[str]]) -> Tensor:
    """Log-probability of each item as the next one.

    Args:
        histories: item ids, oldest first; unknown ones are passed over; empty ones score from the prefix alone.

    Returns:
        `[len(histories), num_items]` fp32: a log-softmax over the catalogue's items only, nothing masked.
    """
    return score_items(recommender, [recommender.vocabulary.known(history) for history in histories])


def score_items(recommender: Recommender, histories: Sequence[Sequence[int]]) -> Tensor:
    """Like `score_histories`, for histories of item indices."""
    if not histories:
        return torch.empty(0, recommender.vocabulary.num_items)
    tokens, last = pad_right([recommender.prompt.tokens_of(items) for items in histories], recommender)
    with torch.inference_mode():
        states = hidden_states(recommender, tokens)
        return item_log_probabilities(recommender, states[torch.arange(len(last)), last])


def pad_right(prompts: Sequence[Sequence[int]], recommender: Recommender) -> tuple[Tensor, Tensor]:
    """Prompts as a rectangle `[B, T]` int64, and each one's last position `[B]`.

    Padding stands on the right, where causal attention keeps it from every state that is read: no mask needed.
    """
    lengths = np.fromiter(map(len, prompts), np.int64, len(prompts))
    padded = np.full((len(prompts), lengths.max(initial=0)), recommender.vocabulary.pad_token, np.int64)
    # One copy for all rows: a tensor a row costs 7 µs each.
    flat = np.fromiter(itertools.chain.from_iterable(prompts), np.int64, lengths.sum())
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat
    tokens, last = torch.from_numpy(padded), torch.from_numpy(lengths - 1)
    device = recommender.head.weight.device
    return tokens.to(device), last.to(device)


def prompt_rows(items: Sequence[array[int]], recommender: Recommender) -> tuple[Tensor, Tensor]:
    """`pad_right` of the prompts of some histories, made from all of them at once.

    Args:
        items: of each history, its item indices (32 bits each), the last `window` at most.
    """
    prefix, separator = recommender.prompt.template.prefix, recommender.prompt.template.separator
    vocabulary, stride, behind = recommender.vocabulary, recommender.prompt.stride, len(prefix)
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    longest = int(lengths.max(initial=0))
    flat = np.frombuffer(b"".join(items), np.int32) + vocabulary.first_item_token
    tokens = np.full((len(items), behind + longest * stride), vocabulary.pad_token, np.int64)
    tokens[:, :behind] = prefix
    if len(flat) == len(items) * longest:
        tokens[:, behind::stride] = flat.reshape(len(items), longest)
        for place, token in enumerate(separator, start=behind + 1):
            tokens[:, place::stride] = token
    else:
        there = np.arange(longest) < lengths[:, None]
        tokens[:, behind::stride][there] = flat
        for place, token in enumerate(separator, start=behind + 1):
            tokens[:, place::stride][there] = token
    device = recommender.head.weight.device
    return torch.from_numpy(tokens).to(device), torch.from_numpy(behind - 1 + lengths * stride).to(device)


def hidden_states(recommender: Recommender, tokens: Tensor) -> Tensor:
    """Last hidden states `[B, T, D]`, after the final norm, of tokens `[B, T]`."""
    return recommender.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state


def item_log_probabilities(recommender: Recommender, states: Tensor, without: Tensor | None = None) -> Tensor:
    """States `[N, D]` → fp32 log-softmax over the item rows of the head only, `[N, num_items]`.

    The head's other rows (special tokens, words, reserved slots) are never computed.

    Args:
        without: `[N, num_items]` bool, items that get -inf and no part of the softmax.
    """
    items = recommender.vocabulary.item_tokens
    rows = slice(items.start, items.stop)
    bias = recommender.head.bias
    logits = torch.nn.functional.linear(states, recommender.head.weight[rows], None if bias is None else bias[rows])
    logits = logits.float()
    if without is not None:
        logits = logits.masked_fill(without, -torch.inf)
    return torch.log_softmax(logits, dim=-1)


def top_items(scores: Tensor, k: int, exclude: Collection[int] = ()) -> list[tuple[int, float]]:
    """The best `k` of one row of scores `[num_items]`: (item index, score), best first, ties by item order.

    Fewer than `k` when the catalogue without `exclude` is smaller.
    """
    masked = scores.clone()
    if exclude:
        masked[torch.tensor(sorted(exclude))] = -torch.inf
    k = min(k, len(scores) - len(set(exclude)))
    order = torch.sort(masked, descending=True, stable=True).indices[:k]
    return [(int(item), float(scores[item])) for item in order]
