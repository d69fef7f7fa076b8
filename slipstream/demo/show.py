"""What the demo prints while it runs: a user's list before a click, after it, and after the weights learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from contracts.recommendation import RecommendationAnswer
from contracts.replica import RankAnswer

_TITLE_WIDTH = 44


def list_table(
    title: str, answer: RecommendationAnswer | RankAnswer, titles: Mapping[str, str], before: Sequence[str]
) -> Table:
    """An answer as a table; items that `before` does not hold are marked new, others by how they moved."""
    made_by = f"weights v{answer.model_version}" if answer.model_version else "popularity"
    table = Table(title=f"{title} · {made_by}", title_justify="left", show_header=False, min_width=_TITLE_WIDTH + 8)
    for rank, item in enumerate(answer.items):
        table.add_row(
            f"{rank + 1}", titles.get(item.item_id, item.item_id)[:_TITLE_WIDTH], _moved(item.item_id, rank, before)
        )
    return table


def _moved(item_id: str, rank: int, before: Sequence[str]) -> str:
    if not before:
        return ""
    if item_id not in before:
        return "[green]new[/]"
    places = before.index(item_id) - rank
    return f"[green]▲{places}[/]" if places > 0 else f"[red]▼{-places}[/]" if places < 0 else "[dim]·[/]"


def print_lists(console: Console, tables: Sequence[Table]) -> None:
    """Side by side where the terminal is wide enough, one under another where not."""
    console.print(Columns(tables, padding=(0, 2)))
