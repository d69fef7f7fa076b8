"""`slipstream train` says what is wrong with its options before anything starts."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
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
