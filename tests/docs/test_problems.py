"""Every kind of problem the code can return is explained in docs/problems.md, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BY_STATUS = {"not-found", "method-not-allowed"}


def test_each_kind_is_explained() -> None:
    source = "\n".join(path.read_text() for room in ("gateway", "serving") for path in (ROOT / room).glob("*.py"))
    raised = set(re.findall(r'\b(?:problem|unavailable|not_found)\(\s*"([a-z-]+)"', source))
    raised |= set(re.findall(r'^    \w+: \("([a-z-]+)", "[A-Z]', source, flags=re.MULTILINE))
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/problems.md").read_text(), flags=re.MULTILINE)
    explained = {kind for row in rows for kind in re.findall(r"`([a-z-]+)`", row)}
    assert {"invalid-request", "swap-refused"} <= raised
    assert explained == raised | BY_STATUS
