"""Every line of 'bad input': a clear problem document, never a 500, and nothing lost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from contracts.problem import PROBLEM_JSON
from contracts.topics import EVENTS
from gateway.service import Gateway
from streams.event_log import Partition
from streams.memory_log import MemoryStore
from tests.unit.gateway.conftest import event


def problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    """The problem document, checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM_JSON
    document: dict[str, Any] = response.json()
    assert document["type"].endswith("/" + kind)
    assert document["status"] == status
    assert document["detail"]
    assert document["instance"] == response.headers["x-request-id"]
    return document


def pointers(document: dict[str, Any]) -> list[str]:
    return [error["pointer"] for error in document["errors"]]


def produced(store: MemoryStore) -> list[str]:
    """Event ids in the log."""
    found = []
    for number in range(4):
        found += [json.loads(record.value or b"")["event_id"] for record in store.records[Partition(EVENTS, number)]]
    return sorted(found)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"events": []}, "/events"),
        ({"events": [event(str(i)) for i in range(501)]}, "/events"),
        ({"events": "x"}, "/events"),
        ({}, ""),
        ([], ""),
        ({"events": [event("1")], "more": 1}, ""),
    ],
)
def test_a_batch_that_is_none(client: TestClient, store: MemoryStore, body: Any, pointer: str) -> None:
    assert pointers(problem(client.post("/v1/events", json=body), 422, "invalid-request")) == [pointer]
    assert produced(store) == []


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"event_id": 1}, "/event_id"),
        ({"event_id": ""}, "/event_id"),
        ({"event_id": "x" * 257}, "/event_id"),
        ({"event_type": "No Spaces"}, "/event_type"),
        ({"user_id": None}, "/user_id"),
        ({"item_id": ["a"]}, "/item_id"),
        ({"item_id": "nowhere"}, "/item_id"),
        ({"timestamp": "yesterday"}, "/timestamp"),
        ({"timestamp": -1}, "/timestamp"),
        ({"timestamp": time.time() + 3600}, "/timestamp"),
        ({"value": "much"}, "/value"),
        ({"schema_version": 2}, "/schema_version"),
    ],
)
def test_a_wrong_event_is_rejected_alone_and_its_neighbours_are_taken(
    client: TestClient, store: MemoryStore, wrong: dict[str, Any], pointer: str
) -> None:
    response = client.post("/v1/events", json={"events": [event("1"), event("2") | wrong, event("3")]})
    assert response.status_code == 202
    receipt = response.json()
    assert receipt["accepted"] == 2
    assert [rejected["index"] for rejected in receipt["rejected"]] == [1]
    assert receipt["rejected"][0]["problem"].startswith(pointer)
    assert produced(store) == ["1", "3"]


def test_a_batch_of_nothing_but_wrong_events_is_refused_with_a_pointer_for_each(client: TestClient) -> None:
    ahead = event("2", timestamp=time.time() + 3600)
    document = problem(client.post("/v1/events", json={"events": [7, ahead]}), 422, "invalid-request")
    assert pointers(document) == ["/events/0", "/events/1/timestamp"]


def test_a_timestamp_just_ahead_of_our_clock_is_taken(client: TestClient) -> None:
    response = client.post("/v1/events", json={"events": [event("1", timestamp=time.time() + 60)]})
    assert response.status_code == 202


@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommendations"])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"nul"])
def test_a_body_that_is_not_json(client: TestClient, path: str, body: bytes) -> None:
    problem(client.post(path, content=body), 400, "malformed-json")


def test_json_nested_without_end(client: TestClient) -> None:
    body = b'{"user_id": "u", "context": {"deep": ' + b"[" * 100_000
    problem(client.post("/v1/recommendations", content=body), 400, "malformed-json")


def test_a_body_over_the_limit_is_refused_declared_or_streamed(client: TestClient, gateway: Gateway) -> None:
    limit = gateway.settings.max_body_bytes
    problem(client.post("/v1/events", content=b" " * (limit + 1)), 413, "body-too-large")
    chunks = (b" " * 65536 for _ in range(limit // 65536 + 1))
    problem(client.post("/v1/events", content=chunks), 413, "body-too-large")
    assert client.post("/v1/events", json={"events": [event("1")]}).status_code == 202


def test_the_largest_legal_batch_is_under_the_limit(client: TestClient) -> None:
    events = [
        event(f"{i:0256}", item_id="a", user_id="u" * 256, recommendation_id="r" * 256, event_type="t" * 64)
        for i in range(500)
    ]
    response = client.post("/v1/events", json={"events": events})
    assert (response.status_code, response.json()["accepted"]) == (202, 500)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/user_id"),
        ({"user_id": "u", "session_id": "s"}, "/user_id"),
        ({"user_id": 7}, "/user_id"),
        ({"user_id": "u", "num_results": 0}, "/num_results"),
        ({"user_id": "u", "num_results": 501}, "/num_results"),
        ({"user_id": "u", "num_results": "ten"}, "/num_results"),
        ({"user_id": "u", "candidates": "a"}, "/candidates"),
        ({"user_id": "u", "exclude": [1]}, "/exclude/0"),
        ({"user_id": "u", "min_model_version": 0}, "/min_model_version"),
        ({"user_id": "u", "num_result": 5}, ""),
    ],
)
def test_a_wrong_recommendation_request(client: TestClient, body: Any, pointer: str) -> None:
    document = problem(client.post("/v1/recommendations", json=body), 422, "invalid-request")
    assert pointers(document) == [pointer]


@pytest.mark.parametrize("deadline", ["0", "-1", "soon", "1e3", "60001", "9" * 30, "٣"])
def test_a_deadline_that_is_none(client: TestClient, deadline: str) -> None:
    headers = {"X-Deadline-Ms": deadline.encode()}
    problem(client.post("/v1/recommendations", json={"user_id": "u"}, headers=headers), 400, "bad-header")


def test_an_unknown_item_and_an_unknown_route(client: TestClient) -> None:
    problem(client.get("/v1/items/nowhere"), 404, "unknown-item")
    problem(client.get("/v2/everything"), 404, "not-found")
    assert problem(client.get("/v1/events"), 405, "method-not-allowed")


def test_unknown_candidates_and_exclusions_do_no_harm(client: TestClient) -> None:
    body = {"user_id": "u", "candidates": ["c", "nowhere", "a"], "exclude": ["nowhere", "a"]}
    response = client.post("/v1/recommendations", json=body)
    assert [item["item_id"] for item in response.json()["items"]] == ["c"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    ["user_id", "session_id", "num_results", "exclude", "candidates", "context", "events", "event_id", "item_id"]
)
bodies = json_values | st.dictionaries(fields, json_values) | st.builds(lambda v: {"events": [v]}, json_values)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/v1/events", "/v1/recommendations"]), body=bodies)
def test_no_json_makes_a_500(client: TestClient, path: str, body: Any) -> None:
    response = client.post(path, content=json.dumps(body))
    assert response.status_code in (200, 202, 422), response.text
    if response.status_code == 422:
        problem(response, 422, "invalid-request")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/v1/events", "/v1/recommendations"]), body=st.binary(max_size=64))
def test_no_bytes_make_a_500(client: TestClient, path: str, body: bytes) -> None:
    assert client.post(path, content=body).status_code in (200, 202, 400, 422)
