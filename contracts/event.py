"""A user did something with an item: the message the whole loop carries."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
"""A user's, item's or event's id as the client writes it: 1 to 256 characters."""

EventType = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
"""What happened, in kebab or snake case: `click`, `view`, `rating`, `purchase`, …"""

Timestamp = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Event time in unix seconds, UTC; the year 9999 is the last."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One interaction, as `POST /v1/events` takes it and `rec.interactions.events.v1` keeps it.

    Attributes:
        event_id: chosen by the client; an event seen twice with one id is trained once.
        event_type: what happened.
        user_id: who; the Kafka key, so that a user's events keep their order.
        item_id: with what.
        timestamp: event time, unix seconds.
        recommendation_id: the answer the click came from, where the client knows it.
        value: a rating, price or dwell time; the type says which.
        schema_version: 1.
    """

    event_id: Identifier
    event_type: EventType
    user_id: Identifier
    item_id: Identifier
    timestamp: Timestamp
    recommendation_id: Identifier | None = None
    value: float | None = None
    schema_version: Literal[1] = 1
