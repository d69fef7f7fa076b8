"""The OpenAPI document, made from the messages that the routes really decode, so that it can't tell another story."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from contracts.event import Event
from contracts.item import Item
from contracts.problem import PROBLEM_JSON, Problem
from contracts.recommendation import EventBatch, EventReceipt, RecommendationAnswer, RecommendationRequest
from gateway.views import HistoryAnswer, ModelsAnswer, NotReady, Ready

_TYPES = (
    Event,
    EventBatch,
    EventReceipt,
    HistoryAnswer,
    Item,
    ModelsAnswer,
    NotReady,
    Problem,
    Ready,
    RecommendationAnswer,
    RecommendationRequest,
)
_REF = "#/components/schemas/{name}"
_PROBLEMS = {
    400: "Malformed JSON, or a header that can't be read.",
    404: "There is none of this id.",
    413: "The body is over the limit.",
    422: "The body is not what the route takes; `errors` points at the fields.",
    503: "Not now: see `Retry-After`.",
}


def body(message: type) -> dict[str, Any]:
    """A route's `openapi_extra` for a JSON body of `message`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(message)}}}}


def answers(status: int, message: type, description: str, *problems: int) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: its answer, and the problems it may answer with instead."""
    kind = PROBLEM_JSON if issubclass(message, Problem) else "application/json"
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": description, "content": {kind: {"schema": _ref(message)}}}
    }
    for code in problems:
        found[code] = {"description": _PROBLEMS[code], "content": {PROBLEM_JSON: {"schema": _ref(Problem)}}}
    return found


def describe(app: FastAPI) -> None:
    """Have `app.openapi()` carry the schemas that the routes refer to."""
    made_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        document = made_by_fastapi()
        document["components"] = {"schemas": schemas()}
        for methods in document["paths"].values():
            for route in methods.values():
                # FastAPI adds one to every route with a path parameter; ours are strings, which can't be wrong.
                if "HTTPValidationError" in str(route["responses"].get("422")):
                    del route["responses"]["422"]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def schemas() -> dict[str, Any]:
    """JSON schemas of every public message, by name."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    # Events are decoded one by one, each with a verdict of its own: to msgspec the batch holds raw JSON.
    components["EventBatch"]["properties"]["events"]["items"] = _ref(Event)
    return components


def _ref(message: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=message.__name__)}
