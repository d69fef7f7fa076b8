"""What the gateway says of itself: histories, models, readiness. Messages of its own, beside those in `contracts`."""

from __future__ import annotations

import msgspec

from contracts.problem import Problem
from gateway.service import Gateway


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True):
    """One interaction of a user; `title` is empty where the catalogue has none."""

    item_id: str
    title: str
    event_type: str
    timestamp: float


class HistoryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A user's last interactions, oldest first.

    Attributes:
        length: how many distinct events the user has in all.
        rebuilding: the log has not been read to its end yet, so there may be more.
    """

    user_id: str
    items: list[HistoryItem]
    length: int
    rebuilding: bool


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as the gateway sees it; `problem` is None while it takes requests."""

    replica: str
    version: int | None
    state: str | None
    in_flight: int
    problem: str | None


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model and where its releases stand.

    Attributes:
        live_version: what the rollout last made live.
        newest_version: what was announced last.
        paused: new releases wait for an operator.
        releases: the last releases' states, by version.
    """

    model: str
    live_version: int | None
    newest_version: int | None
    paused: bool
    replicas: list[ReplicaView]
    releases: dict[int, str]


class ModelsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every model this gateway serves: one, or none while no replica has been reached."""

    models: list[ModelView]


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """All is well."""

    status: str = "ready"


class NotReady(Problem, frozen=True, kw_only=True):
    """A 503 with what is missing, by part: `log`, `histories`, `replicas`, `rollout`."""

    checks: dict[str, str]


def history_answer(gateway: Gateway, user_id: str, *, rebuilding: bool) -> HistoryAnswer:
    """The history of `user_id`; empty for a user without events."""
    items = []
    for entry in gateway.histories.entries(user_id):
        item = gateway.items.get(entry.item_id)
        items.append(
            HistoryItem(
                item_id=entry.item_id,
                title=item.title if item else "",
                event_type=entry.event_type,
                timestamp=entry.timestamp,
            )
        )
    length = gateway.histories.view(user_id).length
    return HistoryAnswer(user_id=user_id, items=items, length=length, rebuilding=rebuilding)


def models_answer(gateway: Gateway) -> ModelsAnswer:
    """The model, its releases and its replicas."""
    rollout = gateway.rollout
    if rollout.model is None:
        return ModelsAnswer(models=[])
    replicas = [
        ReplicaView(
            replica=replica.name,
            version=replica.version,
            state=replica.status.state.value if replica.status else None,
            in_flight=replica.in_flight,
            problem=replica.problem,
        )
        for replica in gateway.pool.replicas
    ]
    view = ModelView(
        model=rollout.model,
        live_version=rollout.live.version if rollout.live else None,
        newest_version=rollout.newest,
        paused=rollout.paused,
        replicas=replicas,
        releases={version: state.value for version, state in rollout.book.states().items()},
    )
    return ModelsAnswer(models=[view])
