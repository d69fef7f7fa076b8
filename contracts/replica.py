"""The replica's private API, between the gateway and a serving replica (JSON over HTTP on loopback or a LAN).

`POST /v1/rank` RankRequest → RankAnswer · `POST /v1/releases/stage` StageRequest → ReplicaStatus ·
`POST /v1/releases/commit` CommitRequest → SwapReport · `POST /v1/releases/roll-back` → SwapReport ·
`GET /v1/status` → ReplicaStatus · `GET /v1/checksum` → ChecksumReport · `/livez`, `/readyz`, `/metrics`.

Errors are `application/problem+json` (`contracts.problem`): 409 for a version that is not staged or a base
that does not fit, 422 for a release that fails its checksum, 503 while not ready.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from contracts.event import Identifier
from contracts.release import Version


class ReplicaState(StrEnum):
    """Where a replica stands; `serving/lifecycle.py` has the transition table."""

    STARTING = "starting"
    READY = "ready"
    PREPARING = "preparing"
    COMMITTING = "committing"
    DRAINING = "draining"
    FAILED = "failed"


class RankRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rank the catalogue for one history.

    Attributes:
        request_id: traced through logs.
        history: item ids, oldest first; ids the model does not know are passed over. Empty: a cold start.
        num_results: how many items to return, 1 to 500.
        exclude: item ids that must not be returned (what the user has seen, and more).
        candidates: rank only these; None for the whole catalogue.
    """

    request_id: str
    history: list[Identifier]
    num_results: Annotated[int, msgspec.Meta(ge=1, le=500)] = 10
    exclude: list[Identifier] = msgspec.field(default_factory=list)
    candidates: list[Identifier] | None = None


class ScoredItem(msgspec.Struct, frozen=True):
    """An item and its score: the model's log-probability, higher is better."""

    item_id: str
    score: float


class RankAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of exactly one weight version.

    Attributes:
        model_version: the version all scores were computed by.
        items: best first; ties by the model's item order.
        engine_ms: time in the engine, milliseconds.
    """

    model_version: Version
    items: list[ScoredItem]
    engine_ms: float


class StageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Read `version` from the release store, verify every checksum, hold it ready. Serving goes on."""

    version: Version


class CommitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Swap to `version`, which must be staged, at a boundary between recommendations."""

    version: Version


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica says of itself.

    Attributes:
        version: what it serves; None before it is ready.
        staged_version: what a commit would swap to; None when nothing is staged.
        in_flight: recommendations being computed now.
        engine: `vllm` or `torch`.
        reason: why it is `failed` or not ready; empty otherwise.
    """

    replica: str
    state: ReplicaState
    model: str
    version: Version | None
    staged_version: Version | None
    in_flight: int
    engine: str
    reason: str = ""


class SwapReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a swap did.

    Attributes:
        checksum: of the live tensors after it, hex; see `ChecksumReport`.
        drain_ms, apply_ms: waiting for recommendations in flight, and applying, milliseconds.
    """

    version: Version
    previous_version: Version | None
    checksum: str
    drain_ms: float
    apply_ms: float


class ChecksumReport(msgspec.Struct, frozen=True, kw_only=True):
    """A checksum over the live tensors as the engine holds them, so that two releases can be told apart.

    Equal weights in one layout give equal checksums; layouts differ. `version` was live throughout.
    """

    version: Version
    checksum: str
