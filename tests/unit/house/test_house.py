"""The house stays easy to see: no file grows past a reader's patience, every room says what it is."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROOMS = [
    "contracts", "streams", "catalogue", "releases", "recommender", "kernels", "online_trainer", "serving", "gateway",
    "loadtest", "evaluation", "slipstream",
]  # fmt: skip
MOST_LINES = 500


def _files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    long = {str(path): len(path.read_text().splitlines()) for path in _files(*ROOMS, "tests")}
    assert {path: lines for path, lines in long.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_page(room: str) -> None:
    assert len((ROOT / room / "README.md").read_text().splitlines()) >= 5


@pytest.mark.parametrize("room", ROOMS)
def test_everything_public_says_what_it_is(room: str) -> None:
    silent = []
    for path in _files(room):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            silent.append(str(path))
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{path}:{node.lineno} {node.name}")
    assert silent == []


def test_nothing_that_may_not_be_redistributed_is_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [name for name in tracked.splitlines() if Path(name).name in {"u.data", "u.item", "ml-100k.inter"}]
