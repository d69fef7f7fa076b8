"""Any causal LM as base: items start from their titles, tied and untied, and later items find reserved slots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from contracts.item import Item
from recommender.base_model import base_recommender
from recommender.cold_start import add_items, place_items, start_rows, title_tokenizer
from recommender.examples import Interaction, UserUpdate, online_batch
from recommender.initialise import preset_recommender
from recommender.loading import Recommender, item_tables, load_recommender, save_recommender
from recommender.presets import PRESETS
from recommender.scoring import score_histories
from recommender.training import online_loss


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("qwen3", True), ("gpt2", True)])
def test_items_start_from_the_mean_of_their_titles_tokens(
    kind: str, tied: bool, make_base: Callable[[str], Path], items: list[Item], tmp_path: Path
) -> None:
    base_dir = make_base(kind)
    before = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    recommender, tokenizer = base_recommender(base_dir, items, window=8)
    assert recommender.tied is tied
    heads = [(before.get_input_embeddings().weight, recommender.model.get_input_embeddings().weight)]
    heads.append((before.get_output_embeddings().weight, recommender.head.weight))
    for old, new in heads:
        title = tokenizer("Toy Soldiers", add_special_tokens=False)["input_ids"]
        assert torch.allclose(new[recommender.vocabulary.token("i1")], old[title].mean(dim=0), atol=1e-6)
        assert torch.allclose(new[recommender.vocabulary.token("i9")], old.mean(dim=0), atol=1e-6), "an empty title"
        assert torch.equal(new[: len(old)], old), "the words stay"
    save_recommender(recommender, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_recommender(tmp_path)
    histories = [[], ["i3", "unknown", "i5"], [f"i{n}" for n in range(20)]]
    assert torch.equal(score_histories(again, histories), score_histories(recommender, histories))
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(tokenizer)


def test_the_prompt_has_words_and_items(make_base: Callable[[str], Path], items: list[Item]) -> None:
    recommender, tokenizer = base_recommender(make_base("llama"), items, window=2, prefix_text="Seen:")
    tokens = recommender.prompt.tokens(["i0", "i1", "i2"])
    first = recommender.vocabulary.first_item_token
    comma = tokenizer(",", add_special_tokens=False)["input_ids"]
    assert tokens == [*tokenizer("Seen:")["input_ids"], first + 1, *comma, first + 2, *comma]
    assert tokens[0] == tokenizer.bos_token_id
    assert recommender.prompt.state_position(1) == len(tokens) - 1 - 2
    assert recommender.prompt.max_tokens == len(tokens)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_base_model_learns_online(kind: str, make_base: Callable[[str], Path], items: list[Item]) -> None:
    recommender, _ = base_recommender(make_base(kind), items, window=8)
    batch = online_batch(recommender, [UserUpdate([Interaction("i1", 1.0)], [Interaction("i2", 2.0)])])
    optimizer = torch.optim.AdamW(recommender.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        loss = online_loss(recommender, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(("change", "message"), [({"window": 500}, "--window"), ({"prefix_text": ""}, "prefix")])
def test_a_prompt_that_can_not_be_is_refused(
    change: dict[str, object], message: str, make_base: Callable[[str], Path], items: list[Item]
) -> None:
    with pytest.raises(ValueError, match=message):
        base_recommender(make_base("gpt2"), items, **change)  # type: ignore[arg-type]


def test_a_model_that_caps_its_logits_is_refused(
    items: list[Item], make_base: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(make_base("llama"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma2Config(
        vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=16, final_logit_softcapping=0.01, **sizes
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="caps its logits"):
        base_recommender(tmp_path, items, window=4)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_new_item_takes_a_reserved_slot_and_its_title(
    kind: str, make_base: Callable[[str], Path], items: list[Item]
) -> None:
    recommender, tokenizer = base_recommender(make_base(kind), items, window=8)
    before = score_histories(recommender, [["i1"]])
    grown = add_items(recommender, [Item(item_id="new", title="Star Wars")], {}, tokenizer)
    scores = score_histories(grown, [["i1"]])[0]
    assert scores[grown.vocabulary.index["new"]] == pytest.approx(scores[grown.vocabulary.index["i2"]].item())
    assert torch.allclose(scores[:20] - torch.logsumexp(scores[:20], 0), before[0], atol=1e-5), "old items as before"


def test_the_tokenizer_of_a_model_folder_starts_new_items(
    make_base: Callable[[str], Path], items: list[Item], tiny: Recommender, tmp_path: Path
) -> None:
    recommender, tokenizer = base_recommender(make_base("llama"), items, window=8)
    tokenizer.save_pretrained(tmp_path / "base")
    save_recommender(recommender, tmp_path / "base")
    new = [Item(item_id="new", title="Star Wars"), Item(item_id="untitled")]
    found = start_rows(recommender, new, {}, title_tokenizer(tmp_path / "base"))
    expected = start_rows(recommender, new, {}, tokenizer)
    assert found.keys() == {"model.embed_tokens.weight", "lm_head.weight"}, "of an untied head, too"
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    save_recommender(tiny, tmp_path / "preset")
    assert title_tokenizer(tmp_path / "preset") is None


def test_a_layer_as_wide_as_the_vocabulary_is_no_table_of_items(items: list[Item]) -> None:
    wide = PRESETS["tiny"].intermediate_size
    recommender = preset_recommender("tiny", items, reserved_slots=wide - len(items) - 2)
    assert recommender.vocabulary.vocab_size == wide
    assert list(item_tables(recommender)) == ["model.embed_tokens.weight"]


def test_rows_of_another_model_are_refused_and_change_nothing(tiny: Recommender, items: list[Item]) -> None:
    rows = tiny.model.get_input_embeddings().weight.detach().clone()
    starts = start_rows(tiny, [Item(item_id="new")], {item.item_id: item for item in items})
    for wrong in ({}, {"lm_head.weight": starts["model.embed_tokens.weight"]}, starts | {"more": torch.zeros(1)}):
        with pytest.raises(ValueError, match="start with the same model"):
            place_items(tiny, ["new"], wrong)
    with pytest.raises(ValueError, match="start with the same model"):
        place_items(tiny, ["new", "newer"], starts)
    assert torch.equal(tiny.model.get_input_embeddings().weight, rows)


def test_a_new_item_of_an_item_only_model_starts_like_its_likes(tiny: Recommender, items: list[Item]) -> None:
    known = {item.item_id: item for item in items}
    slots = tiny.vocabulary.reserved_slots
    rows = tiny.model.get_input_embeddings().weight.detach().clone()
    new = [Item(item_id="new", title="Fargo", categories=("c2",)), Item(item_id="alien", title="Nothing Like It")]
    grown = add_items(tiny, new, known)
    after = grown.model.get_input_embeddings().weight.detach()
    tokens = {item_id: grown.vocabulary.token(item_id) for item_id in ("i5", "i15", "i2", "new", "alien")}
    likeness = torch.cosine_similarity(after[tokens["new"]], rows[2:22])
    assert int(likeness.argmax()) == grown.vocabulary.index["i5"], "i5 shares title and category"
    assert torch.allclose(after[tokens["alien"]], rows[2:22].mean(dim=0), atol=1e-6)
    assert torch.equal(after[:22], rows[:22])
    assert grown.vocabulary.reserved_slots == slots - 2
    with pytest.raises(ValueError, match="twice"):
        add_items(grown, [items[0]], known)
