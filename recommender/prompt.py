"""From a history to token ids: `prompt.json` beside the weights.

A prompt is `prefix item separator item separator …`. An item-only model has the start token as prefix and no
separator. A language model has words in both, tokenised once when the model is initialised. There are no words
behind the history: the token before each item is then the state that predicts it, so that one forward pass
trains every position, and a longer history shares its prefix (and KV cache) with a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from recommender.model_files import read_struct
from recommender.vocabulary import ItemVocabulary, Token

FILE_NAME = "prompt.json"


class PromptTemplate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a prompt that does not depend on the user.

    Attributes:
        prefix: tokens before the first item; at least one, since the first item is predicted from its state.
        separator: tokens behind each item.
        window: how many of the last items are kept.
        prefix_text, separator_text: the words these tokens came from; empty for an item-only model.
    """

    prefix: tuple[Token, ...]
    separator: tuple[Token, ...] = ()
    window: int = 50
    prefix_text: str = ""
    separator_text: str = ""

    def __post_init__(self) -> None:
        if not self.prefix:
            raise ValueError("the prompt's prefix has no token; the first item is predicted from its state, give words")
        if self.window < 1:
            raise ValueError(f"window={self.window}; a prompt needs room for at least one item")

    def save(self, model_dir: Path) -> None:
        """Write `prompt.json`."""
        (model_dir / FILE_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(self)))

    @classmethod
    def load(cls, model_dir: Path) -> PromptTemplate:
        """Read `prompt.json`. Raises FileNotFoundError or ValueError as `ItemVocabulary.load` does."""
        return read_struct(model_dir / FILE_NAME, cls)


class Prompt:
    """Turns histories into token ids for one model."""

    def __init__(self, template: PromptTemplate, vocabulary: ItemVocabulary) -> None:
        self.template = template
        self.vocabulary = vocabulary
        tokens = (*template.prefix, *template.separator)
        items = range(vocabulary.first_item_token, vocabulary.first_item_token + vocabulary.num_items)
        if wrong := [token for token in tokens if token in items or token >= vocabulary.vocab_size]:
            raise ValueError(f"prompt tokens {wrong[:3]} are items' or outside the vocabulary; initialise anew")

    @property
    def window(self) -> int:
        """How many of the last items are kept."""
        return self.template.window

    @property
    def stride(self) -> int:
        """Tokens an item takes, its separator included."""
        return 1 + len(self.template.separator)

    @property
    def max_tokens(self) -> int:
        """Length of the longest prompt."""
        return len(self.template.prefix) + self.window * self.stride

    def tokens(self, history: Iterable[str]) -> list[int]:
        """Token ids for item ids, oldest first: unknown items passed over, the last `window` kept.

        An empty history gives the prefix alone.
        """
        return self.tokens_of(self.vocabulary.known(history))

    def tokens_of(self, items: Sequence[int]) -> list[int]:
        """Like `tokens`, for item indices."""
        first, separator = self.vocabulary.first_item_token, self.template.separator
        tokens = list(self.template.prefix)
        if not separator:
            tokens += [first + item for item in items[-self.window :]]
            return tokens
        for item in items[-self.window :]:
            tokens.append(first + item)
            tokens.extend(separator)
        return tokens

    def state_position(self, num_before: int) -> int:
        """Position whose state predicts the next item after `num_before` items (within the window)."""
        return len(self.template.prefix) + num_before * self.stride - 1
