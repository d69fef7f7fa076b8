"""The log comes late, dies and comes back: what is said to be taken is there, and recommending never stops."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest
from starlette.testclient import TestClient

from contracts.item import Item
from contracts.topics import EVENTS
from gateway.app import create_app
from gateway.service import Gateway
from gateway.settings import GatewaySettings
from streams.apache_kafka import ApacheKafka
from streams.catch_up import read_until
from streams.kafka_log import KafkaEventLog
from streams.topics import apply_topics
from tests.integration.gateway.world import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
USER = "gateway-outage"
ITEMS = [Item(item_id=f"outage-{number}", title=str(number)) for number in range(20)]


def make(bootstrap: str) -> Gateway:
    settings = GatewaySettings(replicas=("http://127.0.0.1:9",), ack_timeout_seconds=2.0)
    return Gateway(settings, KafkaEventLog(bootstrap, client_id="gateway-outage"), items=ITEMS)


def post(client: TestClient, first: int, last: int) -> Any:
    events = [
        {"event_id": f"{USER}-{n}", "event_type": "click", "user_id": USER, "item_id": f"outage-{n}", "timestamp": 1}
        for n in range(first, last)
    ]
    return client.post("/v1/events", json={"events": events})


def recommends(client: TestClient) -> bool:
    response = client.post("/v1/recommendations", json={"user_id": USER})
    return response.status_code == 200 and len(response.json()["items"]) == 10


def log_is_up(client: TestClient) -> bool:
    return set(client.get("/readyz").json().get("checks", {})) == {"replicas"}


def in_the_log(bootstrap: str) -> Counter[str]:
    """How often each of our event ids lies in the events topic."""
    log = KafkaEventLog(bootstrap)
    partitions = log.partitions(EVENTS)
    reader = log.open_reader(log.begin_offsets(partitions))
    try:
        batches = read_until(reader, log.end_offsets(partitions))
        ids = [json.loads(record.value or b"{}").get("event_id", "") for batch in batches for record in batch]
    finally:
        reader.close()
        log.close()
    return Counter(event_id for event_id in ids if event_id.startswith(USER))


def test_the_log_comes_late_dies_and_comes_back(apache_kafka: ApacheKafka) -> None:
    apply_topics(apache_kafka.bootstrap, replication_factor=1)
    apache_kafka.stop()
    gateway = make(apache_kafka.bootstrap)
    with TestClient(create_app(gateway)) as client:
        refused = post(client, 0, 1)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert {"log", "histories"} <= set(client.get("/readyz").json()["checks"])
        assert recommends(client)

        apache_kafka.start()
        until(lambda: log_is_up(client), "the gateway to find the broker by itself")
        assert post(client, 0, 3).json() == {"accepted": 3, "rejected": [], "duplicates": 0}

        apache_kafka.kill()
        started = time.monotonic()
        assert post(client, 3, 6).status_code == 503
        assert post(client, 3, 6).status_code == 503
        assert time.monotonic() - started < 5  # the first waited its two seconds, the second did not
        assert "log" in client.get("/readyz").json()["checks"]
        assert gateway.histories.view(USER).length == 3
        assert recommends(client)

        apache_kafka.start()
        until(lambda: log_is_up(client), "the gateway to find the broker again")
        retried = until(lambda: (answer := post(client, 3, 6)).status_code == 202 and answer, "the retry")
        assert retried.json()["accepted"] == 3
        assert post(client, 0, 6).json()["duplicates"] == 6
        items = gateway.histories.view(USER).items
        assert items == [f"outage-{n}" for n in range(6)]

    assert set(in_the_log(apache_kafka.bootstrap)) == {f"{USER}-{n}" for n in range(6)}
    rebuilt = make(apache_kafka.bootstrap)
    with TestClient(create_app(rebuilt)):
        until(lambda: rebuilt.tail.caught_up(EVENTS), "the histories")
        assert rebuilt.histories.view(USER).items == items
        assert rebuilt.histories.view(USER).length == 6
