"""`slipstream eval` on real data: tables, the JSON line, results that stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from slipstream.commands import eval as command


@pytest.fixture
def app() -> typer.Typer:
    """The command with this group alone."""
    made = typer.Typer()
    command.register(made)
    made.callback()(lambda: None)
    return made


def test_prequential_ends_with_a_json_line_and_stays(app: typer.Typer, tmp_path: Path) -> None:
    arguments = ["eval", "prequential", "--methods", "popularity,popularity-7-days", "--seeds", "2", "--json"]
    arguments += ["--threads", "1", "--out", str(tmp_path), "--plot", str(tmp_path / "stream.png")]
    arguments += ["--page", str(tmp_path / "stream.md")]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    line = json.loads(first.stdout.splitlines()[-1])
    assert line["command"] == "eval prequential --dataset ml-100k --seeds 2"
    rows = {row["name"]: row for row in line["rows"]}
    popular, recent = (rows[f"all_events.{name}.ndcg_at_10"] for name in ("popularity", "popularity-7-days"))
    # An independent sketch had 0.035 and 0.037 on this split.
    assert popular["value"] == pytest.approx(0.035, abs=0.002)
    assert recent["value"] == pytest.approx(0.037, abs=0.002)
    assert popular["low"] < popular["value"] < popular["high"]
    assert "users_with_fewer_than_5_events.popularity.recall_at_10" in rows
    assert (tmp_path / "stream.png").stat().st_size > 10_000
    page = (tmp_path / "stream.md").read_text()
    assert page.startswith("# ml-100k, prequential\n\n`slipstream eval prequential --dataset ml-100k --seeds 2`.")
    assert f"| popularity | {popular['value']:.4f} ({popular['low']:.4f}-{popular['high']:.4f}) |" in page
    assert "![NDCG@10 over the stream](stream.png)" in page
    opened = (tmp_path / "opened.jsonl").read_text()
    again = CliRunner().invoke(app, arguments)
    assert json.loads(again.stdout.splitlines()[-1]) == line
    assert (tmp_path / "opened.jsonl").read_text() == opened, "read, not made again"


def test_a_wrong_name_says_which_there_are(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["eval", "offline", "--methods", "populrity", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "populrity: no such method here; there are popularity, popularity-7-days" in result.output
    wrong = CliRunner().invoke(app, ["eval", "offline", "--dataset", "nowhere", "--out", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "there are ml-100k" in wrong.output


def test_without_choosing_there_must_be_a_choice(app: typer.Typer, tmp_path: Path) -> None:
    arguments = ["eval", "offline", "--methods", "popularity-decayed", "--no-choose", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "popularity-decayed has no trial" in result.output


def test_the_page_shows_the_goals_and_what_was_chosen_from_what(app: typer.Typer, tmp_path: Path) -> None:
    choices = tmp_path / "ml-100k" / "prequential" / "choices.json"
    choices.parent.mkdir(parents=True)
    trials = [
        {"settings": {"half_life_days": days}, "chosen": {"half_life_days": days}, "ndcg": ndcg, "scorers": {}}
        for days, ndcg in ((7, 0.03), (30, 0.04))
    ]
    choices.write_text(json.dumps({"popularity-decayed": trials}))
    arguments = ["eval", "prequential", "--methods", "popularity-decayed", "--seeds", "1", "--no-choose"]
    arguments += ["--threads", "1", "--out", str(tmp_path), "--page", str(tmp_path / "page.md")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert '| popularity-decayed | 2 | 0.0300-0.0400 | `{"half_life_days": 30}` |' in (tmp_path / "page.md").read_text()
