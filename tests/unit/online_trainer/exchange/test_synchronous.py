"""Two real ranks over gloo: one set of weights, nothing lost, and the hook on a DDP model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from online_trainer.exchange.choice import EncodingChoice

ROOT = Path(__file__).parents[4]
RANK = Path(__file__).with_name("rank.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
Ranks = list[dict[str, dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """What each rank found, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    outs = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(RANK), str(rank), "2", str(folder / "store"), str(out)],
            env=ENVIRONMENT, stderr=subprocess.PIPE,
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], said[0].decode()[-3000:]
    return [torch.load(out) for out in outs]


@pytest.mark.parametrize("case", ["compressed", "dense", "fragments"])
def test_ranks_hold_the_same_weights_and_lose_nothing(ranks: Ranks, case: str) -> None:
    one, other = (found[case] for found in ranks)
    assert torch.equal(one["weights"], other["weights"]) and torch.equal(one["first"], other["first"])
    moved = (one["first"].double() - one["weights"].double()) * 2
    kept = one["residual"].double() + other["residual"].double()
    # bf16 sums round once more on the way: 8 bits of mantissa.
    tolerance = 0.2 if case == "dense" else 1e-5
    torch.testing.assert_close(moved + kept, one["total"] + other["total"], rtol=0, atol=tolerance)
    assert float(one["residual"].norm()) > (0 if case == "dense" else 1)


def test_the_ddp_hook_gives_every_rank_the_mean_and_keeps_the_rest(ranks: Ranks) -> None:
    one, other = (found["hook"] for found in ranks)
    names = [name.removeprefix("given.") for name in one if name.startswith("given.")]
    assert len(names) == 6
    for name in names:
        assert torch.equal(one[f"received.{name}"], other[f"received.{name}"])
        sent = 2 * one[f"received.{name}"] + one[f"residual.{name}"] + other[f"residual.{name}"]
        torch.testing.assert_close(sent, one[f"given.{name}"] + other[f"given.{name}"], rtol=0, atol=1e-5)
    assert any(float(one[f"residual.{name}"].norm()) > 0 for name in names)


@pytest.mark.parametrize("case", ["compressed", "dense"])
def test_overlapped_with_backward_gives_the_bits_it_gives_behind_it(ranks: Ranks, case: str) -> None:
    for one in ranks:
        assert torch.equal(one[f"{case}, overlapped"]["weights"], one[f"{case}, after backward"]["weights"])
    one, other = (found[f"{case}, overlapped"] for found in ranks)
    assert torch.equal(one["weights"], other["weights"])
    assert torch.equal(one["received.spare"], other["received.spare"]) and bool(one["received.spare"].any())


def test_overlapped_dense_gradients_are_the_mean(ranks: Ranks) -> None:
    one, other = (found["dense, overlapped"] for found in ranks)
    for name in [name.removeprefix("given.") for name in one if name.startswith("given.")]:
        mean = (one[f"given.{name}"] + other[f"given.{name}"]) / 2
        # Five steps, two roundings to bf16 each.
        tolerance = 5 * 2 * 2**-8 * float(mean.abs().max())
        torch.testing.assert_close(one[f"received.{name}"], mean, rtol=0, atol=tolerance)


def test_exchange_time_is_hidden_only_where_backward_goes_on(ranks: Ranks) -> None:
    for one in ranks:
        hidden, exposed, _ = one["dense, overlapped"]["seconds"].tolist()
        assert hidden > 0 and exposed > 0
        hidden, exposed, encode = one["dense, after backward"]["seconds"].tolist()
        assert hidden == 0 and encode == 0 and exposed > 0


def test_ranks_try_both_encodings_and_choose_alike(ranks: Ranks) -> None:
    one, other = (found["chosen"] for found in ranks)
    assert torch.equal(one["said"], other["said"]) and torch.equal(one["seconds"], other["seconds"])
    assert set(one["said"].tolist()) == {True, False}
    faster = bool(one["seconds"][0] < one["seconds"][1])
    assert one["said"].tolist()[-EncodingChoice.TRIES :] == [faster] * EncodingChoice.TRIES
    # What compression kept back goes along with the first dense step, or is still kept.
    lost = (2 * one["received"] - one["given"] - other["given"]).norm()
    assert float(lost) <= float(one["residual"] + other["residual"]) + 0.02 * float(one["given"].norm())


def test_no_thread_of_gloos_runs_python(ranks: Ranks) -> None:
    # One that is late when the interpreter ends takes the process with it.
    for one in ranks:
        decoded, freed = one["python threads"]["decoded"], one["python threads"]["freed"]
        assert decoded.numel() >= 3 and bool(decoded.all())
        assert freed.numel() >= 9 and bool(freed.all())


def test_the_example_of_the_page_learns(tmp_path: Path) -> None:
    page = (ROOT / "docs/ddp.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "example.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "example.py"]
    run = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr[-3000:]
    losses = [float(found) for found in re.findall(r"rank \d: loss ([\d.]+)", run.stdout)]
    assert len(losses) == 2 and max(losses) < 0.25, run.stdout
