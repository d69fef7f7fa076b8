"""`slipstream init` and `slipstream pretrain`: folders that load, and one clear message where that can't be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import typer
from typer.testing import CliRunner

from catalogue.datasets.dataset import Dataset, Rows, build
from contracts.item import Item
from recommender.loading import checkpoint_tensors, load_recommender
from recommender.scoring import score_histories
from slipstream.commands import init, pretrain


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Runs `slipstream` with both commands over a small data set; with a parameter that is true people repeat there."""
    import numpy as np

    monkeypatch.setenv("OMP_WAIT_POLICY", os.environ.get("OMP_WAIT_POLICY", "PASSIVE"))
    items = [Item(item_id=f"i{n}", title=f"Film {n}") for n in range(30)]
    rows = Rows(
        [f"u{n % 20}" for n in range(400)],
        [f"i{(n * 7 + n % 20) % 30}" for n in range(400)],
        np.arange(400, dtype=np.int64),
    )
    small = build("small", "click", items, rows, repeats=getattr(request, "param", False))

    def load(name: str, path: Path | None) -> Dataset:
        return small

    monkeypatch.setattr("catalogue.datasets.load", load)
    app = typer.Typer()
    init.register(app)
    pretrain.register(app)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def test_init_writes_a_folder_that_loads(run: Any, tmp_path: Path) -> None:
    result = run("init", "--preset", "tiny", "--out", tmp_path, "--reserved-slots", 5)
    assert result.exit_code == 0, result.output
    assert "30 items" in result.stdout
    recommender = load_recommender(tmp_path)
    assert recommender.vocabulary.num_items == 30
    assert score_histories(recommender, [["i3"]]).shape == (1, 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init"], "one of --preset and --base"),
        (["init", "--preset", "tiny", "--base", "x"], "one of --preset and --base"),
        (["init", "--preset", "tiny", "--window", "9"], "belong to --base"),
        (["init", "--preset", "huge"], "tiny, medium, wide, broad, small, base"),
        (["init", "--base", "no-such-folder"], "no-such-folder"),
        (["pretrain", "--epochs", "1", "--seconds", "1"], "one of --epochs and --seconds"),
        (["pretrain", "--preset", "tiny", "--model", "x"], "one of --preset and --model"),
        (["pretrain", "--model", "no-such-folder"], "slipstream init"),
    ],
)
def test_what_can_not_be_is_said_and_nothing_written(
    run: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_pretrain_trains_resumes_and_refuses_another_run(run: Any, tmp_path: Path) -> None:
    common = ["--threads", 1, "--out", tmp_path]
    assert run("pretrain", "--epochs", 2, *common).exit_code == 0
    first = {name: tensor.clone() for name, tensor in checkpoint_tensors(load_recommender(tmp_path).model).items()}
    result = run("pretrain", "--epochs", 2, "--resume", *common)
    assert result.exit_code == 0
    again = checkpoint_tensors(load_recommender(tmp_path).model)
    assert all(torch.equal(first[name], again[name]) for name in first), "a run that is over is not trained further"
    result = run("pretrain", "--epochs", 3, "--resume", *common)
    assert result.exit_code == 2
    assert "other settings" in result.output


@pytest.mark.parametrize(("run", "masked"), [(False, True), (True, False)], indirect=["run"])
def test_what_a_user_has_had_competes_where_people_take_it_again(run: Any, masked: bool, tmp_path: Path) -> None:
    assert run("pretrain", "--epochs", 1, "--threads", 1, "--out", tmp_path).exit_code == 0
    settings = torch.load(tmp_path / "checkpoint/pretrain.pt", weights_only=True)["settings"]
    assert msgspec.json.decode(settings)["mask_seen"] is masked


def test_pretrain_goes_on_from_a_folder_of_init(run: Any, tmp_path: Path) -> None:
    assert run("init", "--preset", "tiny", "--seed", 8, "--out", tmp_path / "new").exit_code == 0
    result = run("pretrain", "--model", tmp_path / "new", "--epochs", 1, "--threads", 1, "--out", tmp_path / "trained")
    assert result.exit_code == 0, result.output
    new, trained = (load_recommender(tmp_path / name) for name in ("new", "trained"))
    assert not torch.equal(new.head.weight, trained.head.weight)
    assert msgspec.structs.replace(trained.vocabulary, item_events=()) == new.vocabulary
    assert sum(trained.vocabulary.item_events) > 100, "it says how many events it has seen of each item"
