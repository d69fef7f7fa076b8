"""A whole gateway on a log in memory, with no replica in reach; and events to post to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from contracts.item import Item
from contracts.topics import EVENTS, ITEMS, RELEASES
from gateway.app import create_app
from gateway.service import Gateway
from gateway.settings import GatewaySettings
from streams.memory_log import MemoryEventLog, MemoryStore

ITEM_IDS = ["a", "b", "c", "d", "e"]
NOBODY = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore({EVENTS: 4, ITEMS: 1, RELEASES: 1})


@pytest.fixture
def gateway(store: MemoryStore) -> Gateway:
    items = [Item(item_id=item_id, title=f"Title {item_id}") for item_id in ITEM_IDS]
    return Gateway(GatewaySettings(replicas=(NOBODY,)), MemoryEventLog(store), items=items)


@pytest.fixture
def client(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr("gateway.log_tail._POLL_SECONDS", 0.02)  # how long each test waits for the end
    with TestClient(create_app(gateway), raise_server_exceptions=False) as found:
        until(lambda: gateway.tail.caught_up(ITEMS))
        yield found


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Polls until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def event(event_id: str, item_id: str = "a", user_id: str = "u", **more: Any) -> dict[str, Any]:
    """An event as a client writes it."""
    base = {"event_id": event_id, "event_type": "click", "user_id": user_id, "item_id": item_id, "timestamp": 1000.0}
    return base | more
