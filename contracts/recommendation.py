"""The public API's messages: `POST /v1/recommendations` and `POST /v1/events`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from contracts.event import Event, Identifier
from contracts.release import Version
from contracts.replica import ScoredItem

MAX_EVENTS = 500
"""Most events one `POST /v1/events` takes."""


class RecommendationRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Who asks, and for how many.

    Attributes:
        user_id, session_id: one of the two; a session is a history without a user.
        num_results: 1 to 500.
        scenario: a name for the place on the page, for metrics.
        context: free, kept with the answer's log line.
        candidates: rank only these.
        exclude: never return these.
        min_model_version: answer only from this version or a later one (503 when no replica has it).
    """

    user_id: Identifier | None = None
    session_id: Identifier | None = None
    num_results: Annotated[int, msgspec.Meta(ge=1, le=500)] = 10
    scenario: Identifier = "default"
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    candidates: Annotated[list[Identifier], msgspec.Meta(max_length=10_000)] | None = None
    exclude: Annotated[list[Identifier], msgspec.Meta(max_length=10_000)] = msgspec.field(default_factory=list)
    min_model_version: Version | None = None


class RecommendationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A list, and who made it.

    Attributes:
        recommendation_id: the join key for a later click.
        model_version: the one version that computed it; None for a fallback.
        items: best first.
        fallback: None, or why no model answered: `cold_start` (a user with no history), `no_replica`,
            `replica_failed`, `deadline`.
        took_ms: from the request's arrival at the gateway.
    """

    recommendation_id: str
    model_version: Version | None
    items: list[ScoredItem]
    fallback: str | None
    took_ms: float


class EventBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/events`: 1 to `MAX_EVENTS` events, each looked at on its own."""

    events: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_EVENTS)]


class RejectedEvent(msgspec.Struct, frozen=True):
    """An event that was not taken: its index in the batch and the problem."""

    index: int
    problem: str


class EventReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The 202's body: how many the log has (`acks=all`), and which were refused.

    `duplicates` counts accepted events whose id the gateway had already taken: they are trained once.
    """

    accepted: int
    rejected: list[RejectedEvent]
    duplicates: int = 0


__all__ = [
    "MAX_EVENTS",
    "Event",
    "EventBatch",
    "EventReceipt",
    "RecommendationAnswer",
    "RecommendationRequest",
    "RejectedEvent",
    "ScoredItem",
]
