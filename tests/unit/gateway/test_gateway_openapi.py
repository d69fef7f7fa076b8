"""The OpenAPI document tells what the routes do: real requests and answers fit its schemas."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from starlette.testclient import TestClient

from tests.unit.gateway.conftest import event


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def of_answer(document: dict[str, Any], method: str, route: str, response: Any) -> Draft202012Validator:
    described = document["paths"][route][method]["responses"][str(response.status_code)]["content"]
    return validator(document, described[response.headers["content-type"]]["schema"])


def test_every_public_route_is_described(document: dict[str, Any]) -> None:
    assert {(route, method) for route, methods in document["paths"].items() for method in methods} == {
        ("/v1/recommendations", "post"),
        ("/v1/events", "post"),
        ("/v1/items/{item_id}", "get"),
        ("/v1/users/{user_id}/history", "get"),
        ("/v1/models", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
        ("/startupz", "get"),
        ("/metrics", "get"),
    }


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        return [ref for value in node for ref in references(value)] if isinstance(node, list) else []

    schemas = document["components"]["schemas"]
    found = references(document)
    assert found
    assert all(ref.removeprefix("#/components/schemas/") in schemas for ref in found)


@pytest.mark.parametrize(
    ("method", "route", "path", "body"),
    [
        ("post", "/v1/recommendations", "/v1/recommendations", {"user_id": "u"}),
        ("post", "/v1/recommendations", "/v1/recommendations", {"user_id": "u", "num_results": 0}),
        ("post", "/v1/recommendations", "/v1/recommendations", {"user_id": "u", "min_model_version": 3}),
        ("post", "/v1/events", "/v1/events", {"events": [event("1"), event("2", "nowhere")]}),
        ("post", "/v1/events", "/v1/events", {"events": []}),
        ("get", "/v1/items/{item_id}", "/v1/items/a", None),
        ("get", "/v1/items/{item_id}", "/v1/items/nowhere", None),
        ("get", "/v1/users/{user_id}/history", "/v1/users/u/history", None),
        ("get", "/v1/models", "/v1/models", None),
        ("get", "/readyz", "/readyz", None),
        ("get", "/livez", "/livez", None),
    ],
)
def test_answers_fit_their_schema(
    client: TestClient, document: dict[str, Any], method: str, route: str, path: str, body: Any
) -> None:
    response = client.request(method, path, json=body)
    of_answer(document, method, route, response).validate(response.json())


@pytest.mark.parametrize(
    ("route", "good", "bad"),
    [
        ("/v1/recommendations", {"user_id": "u"}, {"user_id": "u", "num_results": 501}),
        ("/v1/events", {"events": [event("1")]}, {"events": [event("1", timestamp="x")]}),
        ("/v1/events", {"events": [event("1")] * 500}, {"events": []}),
    ],
)
def test_the_described_bodies_are_those_the_routes_take(
    client: TestClient, document: dict[str, Any], route: str, good: Any, bad: Any
) -> None:
    schema = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator(document, schema).validate(good)
    assert client.post(route, json=good).status_code in (200, 202)
    with pytest.raises(ValidationError):
        validator(document, schema).validate(bad)
    assert client.post(route, json=bad).status_code == 422
