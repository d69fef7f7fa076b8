"""The online batch: blocks, windows, and one forward that scores before it trains."""

from __future__ import annotations

from array import array
from collections import deque

import pytest
import torch

from contracts.item import Item
from recommender.examples import Interaction, OnlineBatch, UserUpdate, online_batch
from recommender.history import History
from recommender.initialise import preset_recommender
from recommender.loading import Recommender, checkpoint_tensors
from recommender.prompt import Prompt, PromptTemplate
from recommender.scoring import item_log_probabilities, pad_right, prompt_rows, score_histories
from recommender.training import batch_states, online_loss


def asked(recommender: Recommender, batch: OnlineBatch) -> torch.Tensor:
    """What the batch's rows are answered."""
    with torch.inference_mode():
        return item_log_probabilities(recommender, batch_states(recommender, batch))


def at(timestamp: float, *item_ids: str) -> list[Interaction]:
    return [Interaction(item_id, timestamp) for item_id in item_ids]


def test_events_of_one_instant_are_asked_from_the_state_before_it(tiny: Recommender) -> None:
    user = UserUpdate(history=at(1, "i1") + at(2, "i2"), events=at(3, "i3", "i4") + at(4, "i5"))
    batch = online_batch(tiny, [user])
    assert [list(block.before) for block in batch.blocks] == [[1, 2], [1, 2, 3, 4]]
    assert batch.event_row.tolist() == [0, 0, 1]
    assert batch.target.tolist() == [3, 4, 5]
    assert [block.positions for block in batch.blocks] == [[0, 1], [2]]
    assert batch.tokens.tolist() == [[1, 3, 4, 0, 0], [1, 3, 4, 5, 6]]
    assert batch.last.tolist() == [2, 4]


def test_a_block_that_the_batch_cuts_keeps_its_state(tiny: Recommender) -> None:
    whole = online_batch(tiny, [UserUpdate(at(1, "i1"), at(2, "i2", "i3", "i4"))])
    second = online_batch(tiny, [UserUpdate(at(1, "i1") + at(2, "i2"), at(2, "i3", "i4"))])
    assert list(second.blocks[0].before) == list(whole.blocks[0].before) == [1]
    assert second.target.tolist() == whole.target.tolist()[1:]


def test_a_first_event_trains_from_the_start_token(tiny: Recommender) -> None:
    batch = online_batch(tiny, [UserUpdate([], at(5, "i7"))])
    assert batch.tokens.tolist() == [[1]]
    scores = asked(tiny, batch)
    assert torch.allclose(scores, score_histories(tiny, [[]]), atol=1e-6)


def test_unknown_items_are_passed_over_and_counted(tiny: Recommender) -> None:
    user = UserUpdate(at(1, "nobody", "i1"), at(2, "nobody") + at(3, "i2", "nobody"))
    batch = online_batch(tiny, [user])
    (block,) = batch.blocks
    assert (batch.skipped, batch.num_events, list(block.before), block.positions) == (2, 1, [1], [1])
    empty = online_batch(tiny, [UserUpdate([], at(1, "nobody"))])
    assert (empty.num_events, empty.skipped) == (0, 1)
    with pytest.raises(ValueError, match="skip it"):
        online_loss(tiny, empty)


def test_scores_are_those_of_serving_whatever_the_batch(tiny: Recommender) -> None:
    long = [Interaction(f"i{n % 20}", n) for n in range(70)]
    users = [UserUpdate(long, at(99, "i1") + at(100, "i2")), UserUpdate([], at(99, "i4", "i5"))]
    batch = online_batch(tiny, users)
    scores = asked(tiny, batch)
    served = score_histories(tiny, [[f"i{item}" for item in block.before] for block in batch.blocks])
    assert torch.allclose(scores, served, atol=1e-5)
    assert batch.tokens.shape == (3, 51), "cut to the window"


def test_the_loss_is_the_mean_and_its_gradient_raises_the_events(tiny: Recommender) -> None:
    batch = online_batch(tiny, [UserUpdate(at(1, "i1"), at(2, "i2", "i3")), UserUpdate([], at(2, "i4"))])
    optimizer = torch.optim.SGD(tiny.model.parameters(), lr=0.1)
    before, loss = asked(tiny, batch), online_loss(tiny, batch)
    own = before[batch.event_row, batch.target]
    assert loss.item() == pytest.approx(-own.mean().item())
    loss.backward()
    optimizer.step()
    after = asked(tiny, batch)
    assert (after[batch.event_row, batch.target] > own).all()


def test_training_repeats_bit_for_bit(items: list[Item]) -> None:
    def train() -> dict[str, torch.Tensor]:
        recommender = preset_recommender("tiny", items, seed=3)
        optimizer = torch.optim.AdamW(recommender.model.parameters(), lr=1e-2)
        for step in range(20):
            users = [UserUpdate(at(step, f"i{(step + n) % 20}"), at(step + 1, f"i{n}")) for n in range(8)]
            loss = online_loss(recommender, online_batch(recommender, users))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return checkpoint_tensors(recommender.model)

    first, second = train(), train()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_history_tells_the_items_it_holds_whatever_came_and_went() -> None:
    generator = torch.Generator().manual_seed(0)
    index = {f"i{n}": n for n in range(6)}
    history, plain = History(length=5), deque[Interaction](maxlen=5)
    for number in range(60):
        item = int(torch.randint(9, (), generator=generator))
        history.append(Interaction(f"i{item}", float(number)))
        plain.append(Interaction(f"i{item}", float(number)))
        if number == 30:
            # Items are added to the model: those seen before become known.
            index = {f"i{n}": n for n in range(8)}
        if number == 40:
            index["i8"] = 8
        if number % 3:
            assert list(history.known(index)) == [index[seen.item_id] for seen in plain if seen.item_id in index]
            history.known(index).append(99)
    assert list(history) == list(plain)


@pytest.mark.parametrize("separator", [(), (1,), (1, 0)])
def test_prompts_made_at_once_are_those_made_one_by_one(tiny: Recommender, separator: tuple[int, ...]) -> None:
    assert tiny.vocabulary.first_item_token > 1
    prompt = Prompt(PromptTemplate(prefix=(1, 0), separator=separator, window=4), tiny.vocabulary)
    recommender = Recommender(tiny.model, tiny.vocabulary, prompt)
    for lengths in ([3, 0, 4, 1], [2, 2], [0], []):
        rows = [[(7 * row + place) % 10 for place in range(length)] for row, length in enumerate(lengths)]
        tokens, last = prompt_rows([array("i", row) for row in rows], recommender)
        wanted_tokens, wanted_last = pad_right([prompt.tokens_of(row) for row in rows], recommender)
        assert tokens.tolist() == wanted_tokens.tolist() and last.tolist() == wanted_last.tolist()
        assert tokens.dtype == wanted_tokens.dtype and last.dtype == wanted_last.dtype
