"""Delta: bitwise against its reference; the scatter into a live model, its undo log and its checksum."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from kernels.delta import LiveModel, ModelDelta, Region, ScatterRefused, TensorDelta, diff
from kernels.delta.model_delta import BITS_OF, INT32_LIMIT
from kernels.delta.reference import checksum_reference, diff_reference

DTYPES = [torch.bfloat16, torch.float32]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().view(BITS_OF[tensor.dtype])


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(bits(left), bits(right))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 2048, 5000])
def test_diff_equals_the_reference(size: int, dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(size)
    old = torch.randn(size, generator=generator).to(dtype)
    new = torch.where(torch.rand(size, generator=generator) < 0.1, old + 1, old)
    if size > 3:
        old[:4], new[:4] = (
            torch.tensor([0.0, float("nan"), 1.0, 2.0]),
            torch.tensor([-0.0, float("nan"), float("nan"), 2.0]),
        )
    expected = diff_reference(old, new)
    found = diff(old.to(device), new.to(device))
    assert found.count == expected.count and found.positions.dtype == torch.int32
    assert torch.equal(found.positions.cpu(), expected.positions) and same(found.values, expected.values)
    again = diff(old.to(device), new.to(device))
    assert torch.equal(found.positions, again.positions)


def build(dtype: torch.dtype, device: str) -> tuple[dict[str, list[Region]], dict[str, torch.Tensor]]:
    """A model with a fused pair, a column shard, a 1-D tensor and one that lies elsewhere; and its checkpoint."""
    generator = torch.Generator().manual_seed(1)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    fused, down, norm = make(24, 20).to(device), make(10, 8).to(device), make(20).to(device)
    checkpoint = {
        "q": make(32, 20),
        "k": make(8, 20),
        "down": make(10, 32),
        "norm": norm.cpu().clone(),
        "far": make(4, 4),
    }
    checkpoint["q"][16:32] = fused[:16].cpu()
    checkpoint["k"] = fused[16:].cpu().clone()
    checkpoint["down"][:, 8:16] = down.cpu()
    regions = {
        "q": [Region((32, 20), (16, 32), (0, 20), fused)],
        "k": [Region((8, 20), (0, 8), (0, 20), fused, at_row=16)],
        "down": [Region((10, 32), (0, 10), (8, 16), down)],
        "norm": [Region.whole(norm)],
        "far": [],
    }
    return regions, checkpoint


def changed(checkpoint: dict[str, torch.Tensor], seed: int, share: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.where(torch.rand(value.shape, generator=generator) < share, value + 1, value)
        for name, value in checkpoint.items()
    }


def assert_holds(regions: dict[str, list[Region]], checkpoint: dict[str, torch.Tensor]) -> None:
    for name, parts in regions.items():
        for part in parts:
            rows, columns = part.rows[1] - part.rows[0], part.columns[1] - part.columns[0]
            live = part.parameter.view(part.parameter.shape[0], -1)[part.at_row :, part.at_column :][:rows, :columns]
            wanted = checkpoint[name].view(part.shape)[slice(*part.rows), slice(*part.columns)]
            assert same(live.contiguous(), wanted.contiguous()), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.7, 1.0])
def test_scatter_and_undo(share: float, dtype: torch.dtype, device: str) -> None:
    regions, checkpoint = build(dtype, device)
    model = LiveModel(regions)
    before, checksum = [tensor.clone() for tensor in model.parameters], model.checksum()
    assert checksum == f"{checksum_reference([t.cpu() for t in model.parameters]):016x}"
    new = changed(checkpoint, 2, share)
    delta = ModelDelta.of({name: diff(checkpoint[name].to(device), new[name].to(device)) for name in checkpoint})
    staged = model.stage(delta)
    assert all(same(a, b) for a, b in zip(before, model.parameters, strict=True))
    model.scatter(staged)
    assert_holds(regions, new)
    assert model.checksum() == f"{checksum_reference([t.cpu() for t in model.parameters]):016x}"
    assert model.verify() and (share == 0) == (model.checksum() == checksum)
    model.revert(staged)
    assert all(same(a, b) for a, b in zip(before, model.parameters, strict=True))
    assert model.checksum() == checksum and model.verify()


@given(
    changes=st.lists(st.tuples(st.integers(0, 499), st.integers(0, 2**16 - 1)), max_size=60, unique_by=lambda c: c[0]),
    seed=st.integers(0, 999),
)
def test_any_bits_go_in_and_come_back(changes: list[tuple[int, int]], seed: int, device: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    live = (
        torch.randint(-(2**15), 2**15, (500,), generator=generator, dtype=torch.int16).view(torch.bfloat16).to(device)
    )
    before = live.clone()
    ordered = sorted(changes)
    values = torch.tensor([(value + 2**15) % 2**16 - 2**15 for _, value in ordered], dtype=torch.int16).view(
        torch.bfloat16
    )
    positions = torch.tensor([position for position, _ in ordered], dtype=torch.int32)
    model = LiveModel({"w": [Region.whole(live)]})
    checksum = model.checksum()
    staged = model.stage(ModelDelta.of({"w": TensorDelta(500, positions, values)}))
    model.scatter(staged)
    wanted = before.cpu().clone()
    wanted.view(torch.int16)[positions.long()] = values.view(torch.int16)
    assert same(live, wanted) and model.verify()
    model.revert(staged)
    assert same(live, before) and model.checksum() == checksum


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_shard_may_start_at_any_element(row: int, device: str) -> None:
    """Rows of 5 start in the middle of a 4-byte word; the rest of the word is another tensor's."""
    live = torch.randn(4, 5).bfloat16().to(device)
    wanted = live.clone()
    model = LiveModel({"w": [Region((1, 5), (0, 1), (0, 5), live, at_row=row)]})
    wanted[row] = torch.randn(5).bfloat16().to(device)
    model.scatter(model.stage(ModelDelta.of({"w": diff(live[row].clone(), wanted[row].clone())})))
    assert same(live, wanted) and model.verify()


def test_the_checksum_sees_any_single_bit(device: str) -> None:
    live = torch.randn(100, generator=torch.Generator().manual_seed(1)).bfloat16().to(device)
    model = LiveModel({"w": [Region.whole(live)]})
    for bit in range(0, 16, 5):
        live.view(torch.int16)[37] ^= 1 << bit
        assert not model.verify()
        live.view(torch.int16)[37] ^= 1 << bit
    assert model.verify()


def test_rows_that_follow_each_other_need_no_positions(device: str) -> None:
    live = torch.zeros(64, 128, device=device)
    positions = torch.arange(10 * 128, 13 * 128, dtype=torch.int32)
    model = LiveModel({"w": [Region.whole(live)]})
    staged = model.stage(ModelDelta.of({"w": TensorDelta(64 * 128, positions, torch.ones(3 * 128))}))
    assert (staged.blocks[:, 3] >= 0).all()
    model.scatter(staged)
    assert live.sum() == 3 * 128 and (live[10:13] == 1).all() and model.verify()


def test_positions_past_two_to_the_thirty_first_are_int64() -> None:
    far = TensorDelta(INT32_LIMIT + 5, torch.tensor([1, INT32_LIMIT + 1]), torch.ones(2))
    delta = ModelDelta.of({"w": far, "v": TensorDelta(3, torch.tensor([2], dtype=torch.int32), torch.ones(1))})
    assert delta.positions.dtype == torch.int64 and delta.positions.tolist() == [1, INT32_LIMIT + 1, 2]


def test_addresses_past_two_to_the_thirty_first_elements(device: str) -> None:
    """A shard of a checkpoint tensor far larger than memory: only its last two rows are held here."""
    live = torch.zeros(2, 4096, device=device)
    rows = 2**21
    region = Region((rows, 4096), (rows - 2, rows), (0, 4096), live)
    model = LiveModel({"w": [region]})
    first = (rows - 2) * 4096
    positions = torch.tensor([5, 2**31 + 7, first, first + 4097, rows * 4096 - 1])
    staged = model.stage(ModelDelta.of({"w": TensorDelta(rows * 4096, positions, torch.arange(1.0, 6.0))}))
    model.scatter(staged)
    assert live.nonzero().tolist() == [[0, 0], [1, 1], [1, 4095]] and model.verify()


def test_refuses_what_does_not_fit(device: str) -> None:
    live = torch.zeros(10, 10, device=device)
    model = LiveModel({"w": [Region.whole(live)]})

    def staged(name: str, positions: list[int], dtype: torch.dtype = torch.float32) -> None:
        model.stage(
            ModelDelta.of(
                {
                    name: TensorDelta(
                        100, torch.tensor(positions, dtype=torch.int32), torch.ones(len(positions), dtype=dtype)
                    )
                }
            )
        )

    with pytest.raises(ScatterRefused, match="the model has no x"):
        staged("x", [1])
    with pytest.raises(ScatterRefused, match="w: positions 3 to 100 in a tensor of 100"):
        staged("w", [3, 100])
    with pytest.raises(ScatterRefused, match="do not ascend"):
        staged("w", [3, 3])
    with pytest.raises(ScatterRefused, match="convert the release"):
        staged("w", [3], torch.bfloat16)
    with pytest.raises(ValueError, match="not contiguous"):
        diff(torch.zeros(10, device=device)[::2], torch.zeros(5, device=device))
    with pytest.raises(ValueError, match="new has 4 elements where 5 are needed"):
        diff(torch.zeros(5, device=device), torch.zeros(4, device=device))
    with pytest.raises(ValueError, match="not contiguous"):
        LiveModel({"w": [Region.whole(torch.zeros(4, 4, device=device).T[:2])]})
