"""A checksum that any change of any word changes."""

from __future__ import annotations

import pytest
import torch

from serving import fingerprint as module
from serving.fingerprint import combine, fingerprint

SHAPES = [(0,), (1,), (3, 5), (7,), (1024, 257), ()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_depends_on_the_bytes_alone(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(shape).to(dtype)
    assert fingerprint([("a", tensor)]) == fingerprint([("a", tensor.clone())])


@pytest.mark.parametrize("position", [0, 1, 499_999, 999_999])
def test_one_flipped_bit_anywhere_changes_it(position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_WORDS", 4096)  # several chunks
    tensor = torch.zeros(1_000_000)
    before = fingerprint([("a", tensor)])
    for bit in (0, 31):
        changed = tensor.clone()
        changed.view(torch.int32)[position] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
        assert fingerprint([("a", changed)]) != before


def test_exchanged_words_change_it_within_and_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_WORDS", 4)
    tensor = torch.arange(40, dtype=torch.int64).view(torch.float64)
    before = fingerprint([("a", tensor)])
    for one, other in ((0, 1), (0, 4), (3, 39)):
        changed = tensor.clone()
        changed[[one, other]] = changed[[other, one]]
        assert fingerprint([("a", changed)]) != before


def test_the_chunk_size_does_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(10_001)
    before = fingerprint([("a", tensor)])
    monkeypatch.setattr(module, "_CHUNK_WORDS", 17)
    assert fingerprint([("a", tensor)]) == before


def test_names_shapes_dtypes_and_order_count() -> None:
    tensor = torch.randn(4, 6)
    prints = {
        fingerprint([("a", tensor)]),
        fingerprint([("b", tensor)]),
        fingerprint([("a", tensor.view(6, 4))]),
        fingerprint([("a", tensor.view(torch.int32))]),
        fingerprint([("a", tensor), ("b", tensor * 2)]),
        fingerprint([("b", tensor * 2), ("a", tensor)]),
    }
    assert len(prints) == 6
    assert combine(["x", "y"]) != combine(["y", "x"])


def test_views_that_start_at_odd_addresses_are_read_right() -> None:
    base = torch.randn(101).bfloat16()
    assert fingerprint([("a", base[1:])]) == fingerprint([("a", base[1:].clone())])
    grid = torch.randn(8, 8)
    assert fingerprint([("a", grid.t())]) == fingerprint([("a", grid.t().contiguous())])
