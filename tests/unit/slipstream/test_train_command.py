"""`slipstream train` says what is wrong with its options before anything starts."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from online_trainer.settings import TrainerSettings
from slipstream.commands import train as command


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command sets up for its process (logs on the runner's stderr, signals) would outlive the test here."""
    monkeypatch.setattr("slipstream.logs.configure", lambda level: None)
    monkeypatch.setattr(command, "_end_on_signals", lambda patience: None)


def test_several_owners_need_an_address_that_workers_can_reach(tmp_path: Path) -> None:
    app = typer.Typer()
    command.register(app)
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    options = ["--model", "m", "--model-dir", str(tmp_path), "--kafka", "127.0.0.1:1", "--releases", str(tmp_path)]
    options += ["--state", str(tmp_path), "--workers", "2", "--owners", "2", "--listen", "0.0.0.0"]
    result = CliRunner().invoke(app, [*options, "--exchange-key", str(key)], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 2
    assert "0.0.0.0 is nowhere: give this machine's address" in result.output


@pytest.mark.parametrize(("option", "masked"), [((), True), (("--exclude-seen",), True), (("--repeat-seen",), False)])
def test_what_a_user_has_taken_is_no_answer_unless_people_repeat(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: tuple[str, ...], masked: bool
) -> None:
    told: list[TrainerSettings] = []

    def run(settings: TrainerSettings, *others: object) -> int:
        told.append(settings)
        return 0

    monkeypatch.setattr(command, "_run", run)
    app = typer.Typer()
    command.register(app)
    options = ["--model", "m", "--model-dir", str(tmp_path), "--kafka", "127.0.0.1:1", "--releases", str(tmp_path)]
    result = CliRunner().invoke(app, [*options, "--state", str(tmp_path), "--nice", "0", *option])
    assert result.exit_code == 0, result.output
    assert told[0].recipe.mask_seen is masked


@pytest.mark.parametrize("group", [(), ("--workers", "2"), ("--workers", "2", "--exchange", "sync")])
def test_a_metrics_port_that_is_taken_is_named_in_one_line(tmp_path: Path, group: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [
            sys.executable, "-m", "slipstream.cli", "train", "--model", "m", "--model-dir", str(tmp_path), "--kafka",
            "127.0.0.1:1", "--releases", str(tmp_path), "--state", str(tmp_path), "--metrics-port", str(port), *group,
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    problem = f"slipstream train: --metrics-port {port} can't be opened on 127.0.0.1 (Address already in use): "
    mend = "end what listens there, or give another --metrics-port or --metrics-host"
    assert ended.stderr.splitlines() == [problem + mend]
    assert ended.returncode == 2
