"""Top-K logits: against float64, with masks, ties, few items left, and merged from shards."""

from __future__ import annotations

import pytest
import torch

from kernels.topk_logits import merge_shards, topk_logits
from kernels.topk_logits.reference import topk_logits_reference


def drawn(rows: int, count: int, width: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator), torch.randn(count, width, generator=generator)


@pytest.mark.parametrize(
    ("rows", "count", "width", "k"),
    [(1, 1000, 32, 10), (5, 3001, 16, 100), (17, 129, 64, 1), (2, 200, 16, 200), (1, 1, 16, 1), (66, 140, 64, 20)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_float64(rows: int, count: int, width: int, k: int, dtype: torch.dtype, device: str, sizes) -> None:  # type: ignore[no-untyped-def]
    if sizes.slow and dtype == torch.bfloat16:
        pytest.skip("the interpreter's dot takes bf16 operands for integers")
    hidden, items = (tensor.to(dtype) for tensor in drawn(rows, count, width))
    exclude = torch.rand(rows, count, generator=torch.Generator().manual_seed(2)) < 0.3
    scores, numbers, total = topk_logits_reference(hidden, items, k, exclude)
    found = topk_logits(hidden.to(device), items.to(device), k, exclude.to(device))
    assert torch.equal(found.items.cpu(), numbers)
    torch.testing.assert_close(found.scores.cpu().double(), scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.log_sum_exp.cpu().double(), total, rtol=1e-5, atol=1e-5)


def test_ties_go_to_the_smaller_item(device: str) -> None:
    hidden, items = drawn(3, 900, 16)
    items = items[torch.randint(0, 3, (900,), generator=torch.Generator().manual_seed(4))].contiguous()
    _, numbers, _ = topk_logits_reference(hidden, items, 64, None)
    assert torch.equal(topk_logits(hidden.to(device), items.to(device), 64).items.cpu(), numbers)


def test_all_equal_logits(device: str) -> None:
    found = topk_logits(torch.zeros(2, 16, device=device), torch.ones(5000, 16, device=device), 100)
    assert torch.equal(found.items.cpu(), torch.arange(100).expand(2, 100))
    torch.testing.assert_close(found.log_sum_exp.cpu(), torch.full((2,), 5000.0).log())


def test_fewer_items_left_than_asked_for(device: str) -> None:
    hidden, items = drawn(2, 640, 16)
    exclude = torch.ones(2, 640, dtype=torch.bool)
    exclude[0, 5] = False
    exclude[1, 7:60] = False
    scores, numbers, total = topk_logits_reference(hidden, items, 100, exclude)
    found = topk_logits(hidden.to(device), items.to(device), 100, exclude.to(device))
    assert torch.equal(found.items.cpu(), numbers) and (found.items[0, 1:] == -1).all()
    torch.testing.assert_close(found.scores.cpu().double(), scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.log_sum_exp.cpu().double(), total, rtol=1e-5, atol=1e-5)


def test_one_mask_for_all_rows(device: str) -> None:
    hidden, items = drawn(3, 300, 16)
    exclude = torch.arange(300) % 2 == 0
    found = topk_logits(hidden.to(device), items.to(device), 10, exclude.to(device))
    assert (found.items % 2 == 1).all()
    assert torch.equal(found.items.cpu(), topk_logits_reference(hidden, items, 10, exclude)[1])


def test_ties_at_the_last_place_taken(device: str) -> None:
    """Thirty distinct scores, each 30 times: the 64th place falls among equals, after evictions."""
    hidden = torch.ones(1, 16)
    items = (torch.arange(900) * 7 % 30).float()[:, None].expand(900, 16).contiguous()
    _, numbers, _ = topk_logits_reference(hidden, items, 64, None)
    assert torch.equal(topk_logits(hidden.to(device), items.to(device), 64).items.cpu(), numbers)


@pytest.mark.parametrize("cuts", [[0, 500], [0, 64, 700]])
def test_shards_merge_to_the_whole(cuts: list[int], device: str) -> None:
    hidden, items = drawn(3, 1000, 16)
    items[600] = items[3]
    hidden, items = hidden.to(device), items.to(device)
    ends = [*cuts[1:], 1000]
    parts = [topk_logits(hidden, items[first:last].contiguous(), 50) for first, last in zip(cuts, ends, strict=True)]
    whole, merged = topk_logits(hidden, items, 50), merge_shards(parts, cuts)
    assert torch.equal(merged.items, whole.items)
    torch.testing.assert_close(merged.scores, whole.scores)
    torch.testing.assert_close(merged.log_sum_exp, whole.log_sum_exp, rtol=1e-5, atol=1e-5)


def test_no_rows_and_repeats(device: str) -> None:
    hidden, items = drawn(4, 700, 16)
    hidden, items = hidden.to(device), items.to(device)
    first, second = topk_logits(hidden, items, 20), topk_logits(hidden, items, 20)
    assert torch.equal(first.scores, second.scores) and torch.equal(first.log_sum_exp, second.log_sum_exp)
    assert topk_logits(hidden[:0], items, 20).items.shape == (0, 20)


def test_refuses_bad_input_with_the_mend(device: str) -> None:
    hidden, items = torch.zeros(2, 16, device=device), torch.zeros(50, 16, device=device)
    with pytest.raises(ValueError, match="k=51: take 1 to 50"):
        topk_logits(hidden, items, 51)
    with pytest.raises(ValueError, match=r"they should be \[B, D\] and \[N, D\]"):
        topk_logits(hidden, torch.zeros(50, 8, device=device), 5)
    with pytest.raises(ValueError, match="items is not contiguous"):
        topk_logits(hidden, torch.zeros(16, 50, device=device).T, 5)
    with pytest.raises(ValueError, match="exclude is"):
        topk_logits(hidden, items, 5, torch.zeros(3, 50, dtype=torch.bool, device=device))
    with pytest.raises(TypeError, match="convert it to bool"):
        topk_logits(hidden, items, 5, torch.zeros(2, 50, device=device))


def test_maxima_that_rise_and_fall(device: str) -> None:
    """Each item's logit a step above the one before, so that every sum so far is scaled down again and again."""
    steps = torch.cat([torch.arange(2100), torch.arange(2100, 0, -1)]).float()
    items = (steps[:, None] / 16).expand(4200, 16).contiguous()
    hidden = torch.tensor([1.0, -1.0, 0.001, 0.0])[:, None].expand(4, 16).contiguous()
    _, _, total = topk_logits_reference(hidden, items, 5, None)
    found = topk_logits(hidden.to(device), items.to(device), 5)
    torch.testing.assert_close(found.log_sum_exp.cpu().double(), total, rtol=1e-5, atol=1e-5)
