"""The public API on a log in memory: what goes in comes out, once, at once."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from contracts.event import Event
from contracts.item import Item
from contracts.recommendation import EventReceipt, RecommendationAnswer
from contracts.topics import EVENTS, ITEMS
from contracts.wire import encode
from gateway.app import create_app
from gateway.service import Gateway
from gateway.settings import GatewaySettings
from streams.memory_log import MemoryEventLog, MemoryStore
from tests.unit.gateway.conftest import NOBODY, event, until


def post(client: TestClient, *events: dict[str, Any]) -> EventReceipt:
    response = client.post("/v1/events", json={"events": events})
    assert response.status_code == 202, response.text
    return msgspec.json.decode(response.content, type=EventReceipt)


def recommend(client: TestClient, **request: Any) -> RecommendationAnswer:
    response = client.post("/v1/recommendations", json=request)
    assert response.status_code == 200, response.text
    return msgspec.json.decode(response.content, type=RecommendationAnswer)


def record_ids(store: MemoryStore) -> list[str]:
    partitions = [records for partition, records in store.records.items() if partition.topic == EVENTS]
    return sorted(json.loads(record.value or b"")["event_id"] for records in partitions for record in records)


def test_an_event_is_in_the_next_request_s_history_and_not_twice_when_the_log_brings_it_back(
    client: TestClient, gateway: Gateway, store: MemoryStore
) -> None:
    for number, item_id in enumerate("abc"):
        post(client, event(str(number), item_id))
        history = client.get("/v1/users/u/history").json()
        assert [item["item_id"] for item in history["items"]] == list("abc"[: number + 1])
        assert history["items"][-1]["title"] == f"Title {item_id}"
        response = client.post("/v1/recommendations", json={"user_id": "u"})
        assert response.headers["x-history-length"] == str(number + 1)
    MemoryEventLog(store).produce(EVENTS, b"v", encode(Event(**event("later", "a", "v")))).result()
    until(lambda: gateway.histories.view("v").length == 1)  # the reader has passed everything before
    assert gateway.histories.view("u").items == ["a", "b", "c"]


def test_duplicates_are_accepted_counted_and_produced_once(client: TestClient, store: MemoryStore) -> None:
    first = post(client, event("1"), event("2"), event("1", "b"))
    assert (first.accepted, first.duplicates) == (3, 1)
    again = post(client, event("2"), event("3"))
    assert (again.accepted, again.duplicates) == (2, 1)
    assert record_ids(store) == ["1", "2", "3"]


def test_a_restarted_gateway_rebuilds_histories_and_still_knows_the_ids(store: MemoryStore) -> None:
    for _ in range(2):
        gateway = Gateway(GatewaySettings(replicas=(NOBODY,)), MemoryEventLog(store))
        with TestClient(create_app(gateway)) as client:
            until(lambda gateway=gateway: gateway.tail.caught_up(EVENTS))
            receipt = post(client, event("1", "a"), event("2", "b"))
            assert gateway.histories.view("u") == (["a", "b"], ["a", "b"], 2)
    assert receipt.duplicates == 2
    assert record_ids(store) == ["1", "2"]


def test_an_unknown_user_gets_what_is_popular_without_a_version(client: TestClient) -> None:
    post(client, event("1", "c", "x"), event("2", "c", "y"), event("3", "b", "z"))
    answer = recommend(client, user_id="nobody", num_results=3, exclude=["b"])
    assert [item.item_id for item in answer.items] == ["c", "a", "d"]
    assert (answer.model_version, answer.fallback) == (None, "cold_start")


def test_without_a_replica_a_known_user_gets_what_is_popular_but_not_what_they_have_seen(client: TestClient) -> None:
    post(client, event("1", "c", "u"), event("2", "c", "y"), event("3", "b", "z"))
    response = client.post("/v1/recommendations", json={"user_id": "u", "num_results": 2})
    assert [item["item_id"] for item in response.json()["items"]] == ["b", "a"]
    assert response.json()["fallback"] == "no_replica"
    assert "x-model-version" not in response.headers


def test_a_session_is_a_history_without_a_user(client: TestClient) -> None:
    post(client, event("1", "a", "session-7"))
    assert "a" not in [item.item_id for item in recommend(client, session_id="session-7").items]


def test_a_version_asked_for_is_never_answered_by_popularity(client: TestClient) -> None:
    response = client.post("/v1/recommendations", json={"user_id": "nobody", "min_model_version": 1})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["type"].endswith("/model-version-unavailable")


def test_items_come_from_the_topic_and_a_tombstone_removes_one(
    client: TestClient, gateway: Gateway, store: MemoryStore
) -> None:
    log = MemoryEventLog(store)
    log.produce(ITEMS, b"n", encode(Item(item_id="n", title="New")))
    log.produce(ITEMS, b"a", None)
    until(lambda: "n" in gateway.items and "a" not in gateway.items)
    assert client.get("/v1/items/n").json() == {"item_id": "n", "title": "New"}
    assert client.get("/v1/items/a").status_code == 404


def test_an_unreadable_record_stops_nothing(client: TestClient, gateway: Gateway, store: MemoryStore) -> None:
    log = MemoryEventLog(store)
    for topic in (EVENTS, ITEMS):
        log.produce(topic, b"u", b"\xff not json", partition=0)
    log.produce(EVENTS, b"u", encode(Event(**event("1"))), partition=0)
    until(lambda: gateway.histories.view("u").length == 1)
    assert metrics(client)[("slipstream_unreadable_records_total", EVENTS)] == 1
    assert metrics(client)[("slipstream_unreadable_records_total", ITEMS)] == 1


def test_ready_names_what_is_missing(client: TestClient, gateway: Gateway) -> None:
    until(lambda: gateway.tail.caught_up(EVENTS))
    response = client.get("/readyz")
    assert response.status_code == 503
    assert set(response.json()["checks"]) == {"replicas"}
    assert "127.0.0.1:9" in response.json()["detail"]
    assert client.get("/livez").status_code == client.get("/startupz").status_code == 200


def test_a_request_id_is_kept_when_it_is_one_and_drawn_when_not(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    drawn = client.get("/livez", headers={"X-Request-ID": "two words\n"[:9] + '"'}).headers["x-request-id"]
    assert len(drawn) == 32


def test_labels_stay_few_whatever_clients_write(client: TestClient) -> None:
    for number in range(50):
        recommend(client, user_id=f"u{number}", scenario=f"page-{number}")
        client.get(f"/v1/items/{number}")
        client.get(f"/nowhere/{number}")
    found = metrics(client)
    assert len([key for key in found if key[0] == "slipstream_recommendations_total"]) == 21
    routes = {key[2] for key in found if key[0] == "slipstream_http_request_duration_seconds_count"}
    assert routes <= {"/v1/items/{item_id}", "/v1/recommendations", "/metrics", "unmatched"}


def metrics(client: TestClient) -> dict[tuple[str, ...], float]:
    """Samples by name and label values (in the labels' alphabetical order)."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples}


def test_a_reader_that_has_ended_is_told_by_ready(client: TestClient, gateway: Gateway) -> None:
    gateway.tail.stop()
    assert "log" in client.get("/readyz").json()["checks"]
