"""`items.json` and `prompt.json`: what they hold, what they refuse."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from recommender.prompt import Prompt, PromptTemplate
from recommender.vocabulary import ItemVocabulary


def vocabulary(**changes: object) -> ItemVocabulary:
    fields: dict[str, object] = {
        "item_ids": ("a", "b", "c"),
        "first_item_token": 2,
        "reserved_slots": 3,
        "pad_token": 0,
        "vocab_size": 64,
    }
    return ItemVocabulary(**{**fields, **changes})  # type: ignore[arg-type]


def test_tokens_are_contiguous_and_survive_the_file(tmp_path: Path) -> None:
    own = vocabulary()
    assert [own.token(item) for item in own.item_ids] == list(own.item_tokens) == [2, 3, 4]
    assert own.known(["c", "nobody", "a"]) == [2, 0]
    own.save(tmp_path)
    again = ItemVocabulary.load(tmp_path)
    assert again == own
    assert again.token("c") == 4


def test_build_pads_and_reserves() -> None:
    built = ItemVocabulary.build([str(n) for n in range(1682)], first_item_token=2, pad_token=0)
    assert built.vocab_size % 64 == 0
    assert built.reserved_slots >= 168
    assert built.first_item_token + built.num_items + built.reserved_slots == built.vocab_size


def test_new_items_take_reserved_slots_and_old_tokens_stay() -> None:
    grown = vocabulary().with_items(["d", "e"])
    assert (grown.token("a"), grown.token("e"), grown.reserved_slots, grown.vocab_size) == (2, 6, 1, 64)
    assert grown.item_events == (), "what the model has seen is not known"
    assert vocabulary(item_events=(7, 0, 2)).with_items(["d"]).item_events == (7, 0, 2, 0)
    with pytest.raises(ValueError, match="reserved-slots"):
        grown.with_items(["f", "g"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_ids": ()}, "at least one item"),
        ({"item_ids": ("a", "a")}, "twice"),
        ({"vocab_size": 7}, "vocab_size"),
        ({"pad_token": 4}, "pad_token"),
    ],
)
def test_a_vocabulary_that_can_not_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vocabulary(**changes)


def test_files_that_are_missing_or_damaged_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="slipstream init"):
        ItemVocabulary.load(tmp_path)
    wrong = {**msgspec.to_builtins(vocabulary()), "first_item_token": -1}
    (tmp_path / "items.json").write_bytes(msgspec.json.encode(wrong))
    with pytest.raises(ValueError, match="first_item_token"):
        ItemVocabulary.load(tmp_path)
    (tmp_path / "items.json").write_bytes(msgspec.json.encode({**wrong, "first_item_token": 2, "schema_version": 2}))
    with pytest.raises(ValueError, match="schema_version"):
        ItemVocabulary.load(tmp_path)


def test_a_prompt_keeps_the_last_items_it_knows() -> None:
    prompt = Prompt(PromptTemplate(prefix=(1,), window=2), vocabulary())
    assert prompt.tokens([]) == [1]
    assert prompt.tokens(["a", "nobody", "b", "c", "nobody"]) == [1, 3, 4]
    assert prompt.max_tokens == 3
    assert [prompt.state_position(count) for count in (0, 1, 2)] == [0, 1, 2]


def test_a_prompt_of_item_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="initialise anew"):
        Prompt(PromptTemplate(prefix=(3,)), vocabulary())
    with pytest.raises(ValueError, match="no token"):
        PromptTemplate(prefix=())
