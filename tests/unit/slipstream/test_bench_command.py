"""`slipstream bench kernels` sees to its results' place before it measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from kernels.bench import runner
from slipstream.commands import bench as command


def test_the_results_folder_is_there_before_anything_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def run(*_: object, **__: object) -> dict[str, object]:
        found.append((tmp_path / "new" / "folder").is_dir())
        raise runner.RefusedToTime("as planned")

    monkeypatch.setattr(runner, "run", run)
    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, ["bench", "kernels", "--device", "cpu", "--out", str(tmp_path / "new/folder/k")])
    assert found == [True], result.output
    assert "as planned" in result.output
