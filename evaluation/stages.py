"""Which part of the timeline is for what: choices on 70-80 %, the last 20 % behind a log of who opened it.

`Tuning` is made from a timeline that ends at 80 %, so nothing that is chosen can have seen the rest. `Final` hands out
the rest only against a configuration, written to a log first: a configuration is opened once, and its result kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalogue.datasets import Dataset
from catalogue.replay import Timeline, split, timeline

FIT, HELD = 0.7, 0.8
"""Where choosing begins and ends, as shares of the events."""


class AlreadyOpened(Exception):
    """The last 20 % was opened with this configuration before; use that result, or change the configuration."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A timeline from its beginning to where an evaluation ends, and where it starts.

    Attributes:
        line: the events that may be looked at.
        start: position of the first event that is asked for.
    """

    line: Timeline
    start: int

    @property
    def past(self) -> Timeline:
        """What is known at the start."""
        return self.line[: self.start]


def tuning_stage(dataset: Dataset, seed: int) -> Stage:
    """Fit on the first 70 %, choose on 70-80 %; the last 20 % is not in it."""
    fit, held, _ = split(timeline(dataset, seed), FIT, HELD)
    return Stage(timeline(dataset, seed)[: len(fit) + len(held)], len(fit))


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """16 hex digits of a configuration; key order does not matter."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class OpenedLog:
    """A file with a JSON line for each time the last 20 % was opened, and one for each result."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def final_stage(self, dataset: Dataset, seed: int, configuration: Mapping[str, Any]) -> Iterator[Stage]:
        """The stage that starts at 80 % and ends with the data, once for a configuration and seed.

        The opening is on disk before the stage is handed out. A run that ended without a result (an exception, a kill)
        may open again: it has told nobody anything. Each opening stays in the log.

        Raises:
            AlreadyOpened: there is a result for this data set, seed and configuration.
        """
        key = {"dataset": dataset.name, "seed": seed, "hash": configuration_hash(configuration)}
        if any(entry["event"] == "closed" and key.items() <= entry.items() for entry in self.entries()):
            raise AlreadyOpened(
                f"the last 20 % of {dataset.name} was opened with configuration {key['hash']}, seed {seed}; "
                f"its result stands (see {self.path})"
            )
        self._append({"event": "opened", **key, "configuration": dict(configuration)})
        line = timeline(dataset, seed)
        before, _ = split(line, HELD)
        yield Stage(line, len(before))
        self._append({"event": "closed", **key})

    def entries(self) -> list[dict[str, Any]]:
        """All lines so far."""
        if not self.path.exists():
            return []
        return [json.loads(text) for text in self.path.read_text().splitlines()]

    def _append(self, entry: dict[str, Any]) -> None:
        """One `write` of one line, so that processes side by side do not tear each other's; then on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stamped = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **entry}
        with self.path.open("a") as file:
            file.write(json.dumps(stamped, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
