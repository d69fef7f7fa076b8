"""The Kafka topics, declared once; `slipstream topics apply` creates them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EVENTS = "rec.interactions.events.v1"
ITEMS = "rec.items.snapshot.v1"
RELEASES = "rec.models.releases.v1"
DEAD_LETTER_SUFFIX = ".dlt"


@dataclass(frozen=True)
class Topic:
    """One topic's declaration.

    Attributes:
        name: as Kafka knows it.
        partitions: how many; only ever raised, since a user's order hangs on it.
        cleanup: `delete` keeps a log for `retention_seconds`, `compact` keeps the last value of each key.
        retention_seconds: -1 for ever.
        key: what the key is, for people.
    """

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"]
    retention_seconds: int
    key: str


def dead_letter(topic: str) -> str:
    """The topic beside `topic` that takes what can't be read."""
    return topic + DEAD_LETTER_SUFFIX


_LIVE = (
    Topic(EVENTS, partitions=4, cleanup="delete", retention_seconds=-1, key="user_id"),
    Topic(ITEMS, partitions=1, cleanup="compact", retention_seconds=-1, key="item_id"),
    Topic(RELEASES, partitions=1, cleanup="compact", retention_seconds=-1, key="model name"),
)

TOPICS: tuple[Topic, ...] = _LIVE + tuple(
    Topic(dead_letter(topic.name), 1, "delete", 30 * 86_400, "the original key") for topic in _LIVE
)
