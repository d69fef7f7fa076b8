"""Locust users that replay real ones: ask for recommendations, think, do what the real user did next.

Each Locust user takes a user of the data set under a fresh id and posts the first of their events as history. From
then on it knows how many events the gateway must have seen, and an answer that was computed from fewer is a failure.

Run it with `slipstream loadtest locust`, or as any locustfile: `locust -f loadtest/locustfile.py --headless …`.
"""

from __future__ import annotations

import random
import time
import uuid
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, ClassVar

import gevent
import msgspec
from locust import FastHttpUser, between, events, task
from locust.env import Environment

from contracts.event import Event
from contracts.recommendation import EventReceipt, RecommendationAnswer
from loadtest.answers import FAILURE_FALLBACKS
from loadtest.slo import EXIT_BROKEN, Levels, Measured, broken
from loadtest.users import replayed, sequences

_HISTORY = 10
_MIN_EVENTS = 20
_RECOMMEND, _CLICK, _BEGIN = "POST /v1/recommendations", "POST /v1/events", "POST /v1/events (history)"
_JSON = {"Content-Type": "application/json"}


@events.init_command_line_parser.add_listener
def _options(parser: ArgumentParser) -> None:
    option: Any = parser.add_argument  # Locust's own adds env_var
    option("--dataset", default="ml-100k", env_var="SLIPSTREAM_LOADTEST_DATASET", help="Whose users to replay")
    option("--data", default="", env_var="SLIPSTREAM_DATA", help="Where the data set lies")
    option("--think-seconds", type=float, default=0.5, env_var="SLIPSTREAM_THINK_SECONDS", help="Between two steps")
    option("--slo-p99-ms", type=float, default=250.0, env_var="SLIPSTREAM_SLO_P99_MS", help="Of recommendations")
    option("--slo-failure-ratio", type=float, default=0.0, env_var="SLIPSTREAM_SLO_FAILURE_RATIO", help="Of requests")
    option("--slo-fallback-ratio", type=float, default=0.0, env_var="SLIPSTREAM_SLO_FALLBACK_RATIO", help="By failures")


@events.test_start.add_listener
def _load(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    line = replayed(options.dataset, Path(options.data) if options.data else None)
    ReplayingUser.sequences = sequences(line, _MIN_EVENTS)
    ReplayingUser.wait_time = between(options.think_seconds * 0.5, options.think_seconds * 1.5)
    ReplayingUser.repeats = line.dataset.repeats
    ReplayingUser.fallbacks = 0


@events.quitting.add_listener
def _judge(environment: Environment, **_: Any) -> None:
    stats, options = environment.stats, environment.parsed_options
    asked = stats.get(_RECOMMEND, "POST")
    measured = Measured(
        requests=asked.num_requests,
        p99_ms=asked.get_response_time_percentile(0.99) or 0.0,
        failure_ratio=stats.total.fail_ratio,
        fallback_ratio=ReplayingUser.fallbacks / max(1, asked.num_requests),
    )
    levels = Levels(
        p99_ms=options.slo_p99_ms,
        failure_ratio=options.slo_failure_ratio,
        fallback_ratio=options.slo_fallback_ratio,
    )
    missed = broken(levels, measured)
    for sentence in missed:
        print(f"SLO missed: {sentence}")
    print(msgspec.json.encode({"measured": measured, "levels": levels, "missed": missed}).decode())
    environment.process_exit_code = EXIT_BROKEN if missed else 0


class ReplayingUser(FastHttpUser):
    """One user of the data set, from the first event to the last; then another one."""

    sequences: ClassVar[list[list[Event]]] = []
    repeats: ClassVar[bool] = False
    fallbacks: ClassVar[int] = 0

    def on_start(self) -> None:
        """Take on a user."""
        self._begin()

    @task
    def step(self) -> None:
        """Recommend, think, click."""
        self._recommend()
        gevent.sleep(self.wait_time())
        if self._next == len(self._events):
            self._begin()
        else:
            self._click([self._events[self._next]], _CLICK)

    def _begin(self) -> None:
        self._events = random.choice(self.sequences)
        self._user_id = f"loadtest-{uuid.uuid4().hex[:12]}"
        self._next = 0
        self._click(self._events[:_HISTORY], _BEGIN)

    def _recommend(self) -> None:
        body = msgspec.json.encode({"user_id": self._user_id, "scenario": "loadtest"})
        with self.client.post(
            "/v1/recommendations", data=body, headers=_JSON, name=_RECOMMEND, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text}")
                return
            answer = msgspec.json.decode(response.content, type=RecommendationAnswer)
            if answer.fallback in FAILURE_FALLBACKS:
                ReplayingUser.fallbacks += 1
            length = response.headers.get("X-History-Length")
            seen = {event.item_id for event in self._events[: self._next]}
            if length != str(self._next):
                response.failure(f"computed from {length} events, {self._next} were acknowledged")
            elif not self.repeats and (again := seen & {item.item_id for item in answer.items}):
                response.failure(f"recommended again: {sorted(again)[:3]}")

    def _click(self, real: list[Event], name: str) -> None:
        now = time.time()
        posted = [
            msgspec.structs.replace(event, event_id=uuid.uuid4().hex, user_id=self._user_id, timestamp=now)
            for event in real
        ]
        body = msgspec.json.encode({"events": posted})
        with self.client.post("/v1/events", data=body, headers=_JSON, name=name, catch_response=True) as response:
            if response.status_code != 202:
                response.failure(f"{response.status_code}: {response.text}")
                return
            receipt = msgspec.json.decode(response.content, type=EventReceipt)
            if receipt.accepted != len(posted):
                response.failure(f"{receipt.accepted} of {len(posted)} events accepted: {receipt.rejected[:1]}")
                return
            self._next += len(posted)
