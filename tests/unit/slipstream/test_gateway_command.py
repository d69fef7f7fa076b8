"""`slipstream gateway` says what is wrong with its options before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from slipstream.commands import gateway as command


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    command.register(made)
    return made


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--kafka", "broker", "--replica", "http://127.0.0.1:1"], "HOST:PORT"),
        (["--kafka", "127.0.0.1:1", "--replica", "127.0.0.1:1"], "write http://HOST:PORT"),
        (["--kafka", "127.0.0.1:1", "--replica", "http://a:1", "--replica", "http://a:1"], "each once"),
        (["--kafka", "127.0.0.1:1", "--replica", "http://a:1", "--items", "nowhere"], "nor a file"),
        (["--kafka", "127.0.0.1:1", "--replica", "http://a:1", "--log-level", "loud"], "use debug, info"),
        (["--kafka", "127.0.0.1:1"], "Missing option '--replica'"),
    ],
)
def test_a_wrong_option_is_named(app: typer.Typer, options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, options, env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 2
    assert says in result.output


def test_an_items_file_is_read_and_its_wrong_line_named(app: typer.Typer, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id": "a", "title": "A"}\n{"item_id": 7}\n')
    options = ["--kafka", "127.0.0.1:1", "--replica", "http://a:1", "--items", str(path)]
    result = CliRunner().invoke(app, options, env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 2
    assert "line 2" in result.output
