"""The reader in docs/quality.md reads what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_the_example_reads_two_small_files() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/quality.md").read_text(), flags=re.M | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the page's own code
    clicks = b"user,item,timestamp\nana,b,20\nana,a,10\nben,a,30\n"
    found = names["read_clicks"]({"clicks.csv": clicks, "items.csv": b"item,title\na,First\nb,Second\nc,Never\n"})
    assert found.users == ["ana", "ben"] and found.item_ids == ["a", "b", "c"]
    assert found.item.tolist() == [0, 1, 0] and found.timestamp.tolist() == [10, 20, 30]
