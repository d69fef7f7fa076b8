"""What the tests of trainers share: a small model, and the table of verdicts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.item import Item
from recommender.initialise import preset_recommender
from recommender.loading import save_recommender
from tests.kafka_fixtures import kafka_nodes


@pytest.fixture(scope="session")
def verdicts() -> Iterator[list[str]]:
    """A line for each point that was killed at; with `make test-faults` they become a table."""
    lines: list[str] = []
    yield lines
    if os.environ.get("SLIPSTREAM_FAULTS", "") == "all" and lines:
        path = Path(os.environ.get("SLIPSTREAM_FAULT_TABLE", "fault-points.md"))
        nodes = f"{kafka_nodes()} node{'s' if kafka_nodes() > 1 else ''} of Kafka"
        head = f"Killed with SIGKILL on {nodes}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC\n\n"
        path.write_text(
            head + "| point | killed | seconds | verdict |\n| --- | --- | --- | --- |\n" + "\n".join(lines) + "\n"
        )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model over 38 items."""
    folder = tmp_path_factory.mktemp("model")
    save_recommender(preset_recommender("tiny", [Item(item_id=f"i{n}") for n in range(38)], seed=2), folder)
    return folder
