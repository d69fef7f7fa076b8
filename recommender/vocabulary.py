"""Which token each item is: `items.json` beside the weights.

Item tokens are one contiguous range, so that a softmax over items is a slice of the head. Behind the items lie
reserved slots of the same range: rows that exist in the weights and wait for items born later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from contracts.event import Identifier
from recommender.model_files import read_struct

FILE_NAME = "items.json"
PAD_TO = 64
"""Vocabulary sizes are multiples of this: vLLM pads to 64 anyway, and tensor-parallel ranks split evenly."""

Token = Annotated[int, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class ItemVocabulary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Item ids in token order, and where their tokens stand in the model's vocabulary.

    Attributes:
        item_ids: the item at index i has token `first_item_token + i`.
        first_item_token: token of index 0.
        reserved_slots: rows behind the items, free for `with_items`.
        pad_token: fills the right of a batch; its state is never read.
        vocab_size: rows of the embedding, padding included.
        item_events: of each item, how many events the model was trained on; empty where that is not known. An item
            added later has none.
        schema_version: 1.
    """

    item_ids: tuple[Identifier, ...]
    first_item_token: Token
    reserved_slots: Token
    pad_token: Token
    vocab_size: Token
    item_events: tuple[Count, ...] = ()
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        if not self.item_ids:
            raise ValueError("a vocabulary needs at least one item; give the catalogue's items")
        if len(self.index) != len(self.item_ids):
            raise ValueError("an item id stands twice in the vocabulary; item ids must be distinct")
        if self.first_item_token + len(self.item_ids) + self.reserved_slots > self.vocab_size:
            raise ValueError(
                f"{len(self.item_ids)} items and {self.reserved_slots} reserved slots behind token "
                f"{self.first_item_token} do not fit into vocab_size={self.vocab_size}; raise vocab_size"
            )
        if self.item_events and len(self.item_events) != len(self.item_ids):
            raise ValueError(f"item_events has {len(self.item_events)} counts for {len(self.item_ids)} items")
        if self.first_item_token <= self.pad_token < self.first_item_token + self.num_items + self.reserved_slots:
            raise ValueError(f"pad_token={self.pad_token} is an item's token; choose one outside the items")

    @classmethod
    def build(
        cls, item_ids: Sequence[str], first_item_token: int, pad_token: int, reserved_slots: int | None = None
    ) -> ItemVocabulary:
        """A vocabulary whose size is padded to `PAD_TO`; at least max(64, 10 % of the items) slots stay reserved.

        What padding adds is reserved too, so no row is wasted.
        """
        wanted = max(64, len(item_ids) // 10) if reserved_slots is None else reserved_slots
        used = first_item_token + len(item_ids)
        vocab_size = -(-(used + wanted) // PAD_TO) * PAD_TO
        return cls(
            item_ids=tuple(item_ids),
            first_item_token=first_item_token,
            reserved_slots=vocab_size - used,
            pad_token=pad_token,
            vocab_size=vocab_size,
        )

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id → its index in `item_ids`, which is also its column in score matrices."""
        return {item_id: index for index, item_id in enumerate(self.item_ids)}

    @property
    def num_items(self) -> int:
        """Real items: reserved slots not counted."""
        return len(self.item_ids)

    @property
    def item_tokens(self) -> range:
        """The tokens of the real items, in order."""
        return range(self.first_item_token, self.first_item_token + self.num_items)

    def token(self, item_id: str) -> int:
        """The item's token. Raises KeyError for an item the model does not know."""
        return self.first_item_token + self.index[item_id]

    def known(self, item_ids: Iterable[str]) -> list[int]:
        """Indices of the items the model knows, in the given order; unknown ones are passed over."""
        index = self.index
        return [index[item_id] for item_id in item_ids if item_id in index]

    def with_items(self, new_ids: Sequence[str]) -> ItemVocabulary:
        """A vocabulary that also holds `new_ids`, in reserved slots; old tokens and the size stay.

        Raises:
            ValueError: more new items than reserved slots, or one that is known already.
        """
        if len(new_ids) > self.reserved_slots:
            raise ValueError(
                f"{len(new_ids)} new items but {self.reserved_slots} reserved slots; "
                "initialise a model with more (`slipstream init --reserved-slots`)"
            )
        return msgspec.structs.replace(
            self,
            item_ids=self.item_ids + tuple(new_ids),
            reserved_slots=self.reserved_slots - len(new_ids),
            item_events=self.item_events + (0,) * len(new_ids) if self.item_events else (),
        )

    def save(self, model_dir: Path) -> None:
        """Write `items.json`."""
        (model_dir / FILE_NAME).write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, model_dir: Path) -> ItemVocabulary:
        """Read `items.json`.

        Raises:
            FileNotFoundError: `model_dir` is no recommender. ValueError: the file is not a valid vocabulary.
        """
        return read_struct(model_dir / FILE_NAME, cls)
