"""The baseline is causal, its losses are what they say, and it learns."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from catalogue.datasets import Dataset
from catalogue.protocol import Block
from evaluation.sasrec import Loss, Sasrec, SasrecScorer, SasrecSettings
from evaluation.sasrec_training import SasrecTrainer, train_until_best
from evaluation.stages import tuning_stage
from evaluation.stream import prequential
from recommender.losses import binary, full_softmax, gbce_beta, sampled_softmax

CPU = torch.device("cpu")
SMALL = SasrecSettings(hidden=32, dropout=0.1, batch_rows=16, learning_rate=5e-3, negatives=16)


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return (
        torch.randn(50, 8, generator=random),
        torch.randn(20, 8, generator=random),
        torch.randint(20, (50,), generator=random),
    )


def test_sampled_softmax_over_everything_is_the_full_one(states: tuple[torch.Tensor, ...]) -> None:
    uniform = torch.full((20,), -math.log(20))
    sampled = sampled_softmax(*states, torch.arange(20), uniform)
    assert sampled.item() == pytest.approx(full_softmax(*states).item(), rel=1e-5)


def test_the_correction_brings_the_sampled_gradient_to_the_full_ones(states: tuple[torch.Tensor, ...]) -> None:
    """With skewed proposals, many draws: the corrected mean lies nearer to the full loss than the uncorrected."""
    q = torch.softmax(torch.linspace(0, 3, 20), 0)
    torch.manual_seed(0)
    negatives = torch.multinomial(q, 4_000, replacement=True)
    # In the limit the negatives' sum is N times the full one, so compare log-partition functions.
    states_, rows, targets = states
    logits = states_ @ rows.T
    wanted = torch.logsumexp(logits, 1)
    corrected = torch.logsumexp(logits[:, negatives] - q.log()[negatives], 1) - math.log(4_000)
    plain = torch.logsumexp(logits[:, negatives], 1) - math.log(4_000) + math.log(20)
    assert (corrected - wanted).abs().mean() < 0.2 * (plain - wanted).abs().mean()
    loss = sampled_softmax(states_, rows, targets, negatives, q.log())
    hits = negatives[None, :] == targets[:, None]
    logits_n = (logits[:, negatives] - q.log()[negatives]).masked_fill(hits, -torch.inf)
    positive = logits.gather(1, targets[:, None]) - q.log()[targets][:, None]
    assert loss.item() == pytest.approx(
        (torch.logsumexp(torch.cat([positive, logits_n], 1), 1) - positive[:, 0]).mean().item()
    )


def test_gbce_at_zero_is_bce_and_raises_the_positive_otherwise(states: tuple[torch.Tensor, ...]) -> None:
    negatives = torch.randint(20, (50, 3), generator=torch.Generator().manual_seed(2))
    assert gbce_beta(20, 3, 0.0) == 1.0
    assert gbce_beta(20, 3, 1.0) == pytest.approx(3 / 19)
    plain = binary(*states, negatives)
    logits = states[0] @ states[1].T
    by_hand = -torch.log(torch.sigmoid(logits.gather(1, states[2][:, None]))).sum()
    by_hand = by_hand - torch.log(1 - torch.sigmoid(logits.gather(1, negatives))).sum()
    assert plain.item() == pytest.approx(by_hand.item() / 50, rel=1e-4)
    none = binary(*states, torch.full((50, 3), -1))
    assert none.item() < plain.item()
    assert binary(*states, torch.full((50, 3), -1), 0.5).item() == pytest.approx(none.item() / 2)


def test_a_state_does_not_read_the_future_and_padding_does_not_matter() -> None:
    for align in ("start", "end"):
        model = Sasrec(40, SasrecSettings(hidden=16, layers=2, window=8, align=align)).eval()  # type: ignore[arg-type]
        items = torch.tensor([[40, 1, 2, 3, 4], [40, 1, 2, 9, 9]])
        states = model(items, torch.tensor([5, 5]))
        assert torch.allclose(states[0, :3], states[1, :3], atol=1e-6)
        assert not torch.allclose(states[0, 3], states[1, 3], atol=1e-3)
        alone = model(torch.tensor([[40, 1, 2]]), torch.tensor([3]))
        padded = model(torch.tensor([[40, 1, 2, 41, 41]]), torch.tensor([3]))
        assert torch.allclose(alone[0], padded[0, :3], atol=1e-6)


def test_scores_are_of_the_last_items_of_the_history() -> None:
    torch.manual_seed(0)
    model = Sasrec(40, SasrecSettings(hidden=16, window=3))
    histories = ([5, 6, 1, 2, 3], [1, 2, 3], [])
    asked = [Block(0, 0, 9, np.array([1], np.int32), np.array(history, np.int32)) for history in histories]
    scores = SasrecScorer(model).score(asked)
    assert scores.shape == (3, 40)
    assert torch.allclose(scores[0], scores[1], atol=1e-6)
    assert not torch.allclose(scores[1], scores[2], atol=1e-3)


@pytest.mark.parametrize(("loss", "goal"), [("full", 0.5), ("sampled", 0.5), ("gbce", 0.5), ("bce", 0.4)])
def test_every_loss_learns_to_walk(walkers: Dataset, loss: Loss, goal: float) -> None:
    """What follows on the ring is certain up to the block's order; chance is 0.15."""
    stage = tuning_stage(walkers, 0)
    settings = dataclasses.replace(SMALL, loss=loss)
    trainer = SasrecTrainer(stage.past, settings, 0, CPU)

    def validate(model: Sasrec) -> float:
        return float(prequential(SasrecScorer(model), stage.line, stage.start).main.ndcg.mean())

    seen: list[float] = []
    best = train_until_best(trainer, validate, 40, 3, 5, lambda epoch, mean, score: seen.append(score or -1.0))
    assert max(seen) > goal
    assert validate(trainer.model) == pytest.approx(max(seen)), "the model ends as it was at its best"
    assert seen[best - 1] == max(seen)


def test_negatives_are_born_and_not_in_the_row(walkers: Dataset) -> None:
    stage = tuning_stage(walkers, 0)
    trainer = SasrecTrainer(stage.past, SMALL, 0, CPU)
    batch = next(trainer._sequences.batches(8, trainer._random, CPU))
    negatives = trainer._own_negatives(batch, 50)
    born = trainer._born
    for row, drawn in zip(batch.rows.tolist(), negatives, strict=True):
        kept = born[drawn[drawn >= 0]]
        assert not set(kept.tolist()) & set(batch.items[row].tolist())
    assert (negatives >= 0).float().mean() > 0.4


@pytest.mark.parametrize("window", [50, 6])
def test_what_a_user_has_had_does_not_compete_where_it_is_masked(walkers: Dataset, window: int) -> None:
    past = tuning_stage(walkers, 0).past
    settings = dataclasses.replace(SMALL, window=window, mask_seen=True)
    trainer = SasrecTrainer(past, settings, 0, CPU)
    batch = next(trainer._sequences.batches(8, trainer._random, CPU))
    seen = trainer._seen(batch, trainer._born)
    assert seen is not None
    width = batch.items.shape[1]
    earlier: dict[int, set[int]] = {}
    for row, item in zip(batch.earlier_rows.tolist(), batch.earlier_items.tolist(), strict=True):
        earlier.setdefault(row, set()).add(item)
    assert bool(earlier) == (window == 6), "a short window leaves much of a history outside"
    for mask, state, row, target in zip(
        seen, batch.states.tolist(), batch.rows.tolist(), batch.targets.tolist(), strict=True
    ):
        had = set(batch.items[row, 1 : state % width + 1].tolist()) | earlier.get(row, set())
        assert set(trainer._born[mask].tolist()) == had - {target}
    plain = SasrecTrainer(past, dataclasses.replace(settings, mask_seen=False), 0, CPU)
    assert trainer._loss(batch) < plain._loss(batch), "less competes"
