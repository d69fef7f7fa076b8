"""The step inside vLLM that turns logits over the vocabulary into scores of items, masked before the top-k.

vLLM's `logprobs=k` returns the best k tokens of the whole vocabulary: words and special tokens among them, and
what the user has seen. Asking for more and filtering afterwards is not exact (a user with 700 seen items can own
every one of the best 700). So this processor rewrites each row before vLLM's top-k:

1. items get their log-softmax over all items (the score, whatever is masked later),
2. items that are excluded or no candidates get -inf,
3. every other token gets -inf.

With `logprobs_mode="processed_logits"` vLLM's own top-k then returns items and scores as they are. It implements
the interface of vLLM's model runner V1, which `vllm_compat` selects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from serving.ranking_plan import ItemIndices
from serving.vllm_compat import CANDIDATES, EXCLUDED, FIRST_ITEM_TOKEN, NUM_ITEMS


class ItemRanking(LogitsProcessor):
    """Rewrites each row of logits as item scores; see the module's text."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        settings = vllm_config.additional_config
        self._first: int = settings[FIRST_ITEM_TOKEN]
        self._num_items: int = settings[NUM_ITEMS]
        self._masks: dict[int, _Masks] = {}

    def is_argmax_invariant(self) -> bool:
        """False: the best item is rarely the best token, and greedy requests must run through `apply`."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch: which row belongs to which request."""
        process_dict_updates(self._masks, batch_update, lambda params, prompt, output: _Masks.of(params.extra_args))

    def apply(self, logits: Tensor) -> Tensor:
        """`[B, vocab_size]` fp32 logits → item scores in place, -inf everywhere else.

        No swap happens while a recommendation is in flight, so all rows know as many items; vLLM's own dummy rows,
        which nobody reads, are ranked along.
        """
        num_items = next((masks.num_items for masks in self._masks.values()), self._num_items)
        items = logits[:, self._first : self._first + num_items]
        scores = torch.log_softmax(items, dim=-1)
        self._keep_candidates(scores)
        self._drop_excluded(scores)
        logits.fill_(-torch.inf)
        items.copy_(scores)
        return logits

    def _keep_candidates(self, scores: Tensor) -> None:
        for row, masks in self._masks.items():
            if masks.candidates is not None:
                kept = torch.from_numpy(masks.candidates).to(scores.device).long()
                values = scores[row, kept]
                scores[row] = -torch.inf
                scores[row, kept] = values

    def _drop_excluded(self, scores: Tensor) -> None:
        """All rows in one scatter: a launch a row would cost more than the model on a GPU."""
        positions = [
            masks.excluded.astype(np.int64) + row * scores.shape[1]
            for row, masks in self._masks.items()
            if len(masks.excluded)
        ]
        if positions:
            flat = torch.from_numpy(np.concatenate(positions)).to(scores.device, non_blocking=True)
            scores.view(-1).index_fill_(0, flat, -torch.inf)


class _Masks:
    """One request's masks, as item indices, and how many items there are."""

    def __init__(self, excluded: ItemIndices, candidates: ItemIndices | None, num_items: int) -> None:
        self.excluded = excluded
        self.candidates = candidates
        self.num_items = num_items

    @classmethod
    def of(cls, extra: Mapping[str, bytes] | None) -> _Masks | None:
        """None for vLLM's own dummy requests, whose row is ranked unmasked."""
        if not extra or EXCLUDED not in extra:
            return None
        candidates = extra.get(CANDIDATES)
        return cls(
            np.frombuffer(bytearray(extra[EXCLUDED]), np.int32),
            None if candidates is None else np.frombuffer(bytearray(candidates), np.int32),
            int(np.frombuffer(extra[NUM_ITEMS], np.int32)[0]),
        )
