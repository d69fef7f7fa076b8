"""`slipstream train` says what is wrong with its options before anything starts."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

from slipstream.commands import train as command


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
