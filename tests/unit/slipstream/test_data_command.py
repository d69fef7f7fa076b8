"""`slipstream data`: one table or one JSON value on stdout; one message and exit code 2 when data is missing."""

from __future__ import annotations

import json
import os

import pytest
import typer
from typer.testing import CliRunner

from slipstream.commands import data

needs_data = pytest.mark.skipif("SLIPSTREAM_DATA" not in os.environ, reason="set SLIPSTREAM_DATA to the data sets")


@pytest.fixture
def run():
    """Runs `slipstream` with the group and the given arguments."""
    app = typer.Typer()
    data.register(app)
    app.callback()(lambda: None)
    return lambda *arguments: CliRunner().invoke(app, ["data", *map(str, arguments)])


@needs_data
def test_show_counts_ml_100k(run):
    result = run("show", "ml-100k", "--json")
    assert result.exit_code == 0
    counted = json.loads(result.stdout)
    assert (counted["users"], counted["items"], counted["events"]) == (943, 1682, 100_000)
    table = run("show", "ml-100k").stdout
    assert all(text in table for text in ("943", "1,682", "100,000", "1997-09-20", "1998-04-22", "75.8%"))


def test_list_says_where_each_set_would_come_from(run, tmp_path, monkeypatch):
    monkeypatch.delenv("SLIPSTREAM_DATA", raising=False)
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows["ml-100k"] == {"name": "ml-100k", "place": None, "fetched": True}
    assert rows["online-retail"] == {"name": "online-retail", "place": None, "fetched": False}
    table = run("list").stdout
    assert "missing" in table
    assert "fetched when used" in table
    assert run("list", "--data", tmp_path).exit_code == 0


@pytest.mark.parametrize("command", [("show", "ml-100k"), ("fetch", "ml-100k"), ("list",)])
def test_missing_data_is_one_message_and_exit_code_2(run, tmp_path, command):
    result = run(*command, "--data", tmp_path / "absent")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "absent does not exist" in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_set_is_named(run):
    result = run("show", "ml-20m")
    assert result.exit_code == 2
    assert "no data set is called 'ml-20m'" in result.stderr
