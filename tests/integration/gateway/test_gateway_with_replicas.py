"""The whole gateway as processes: lists by a model, releases rolled out under load, and replicas that die."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Self

import pytest

from contracts.release import LiveVersion, live_key
from contracts.topics import RELEASES
from contracts.wire import decode
from loadtest.answers import Answer, summarise
from loadtest.open_loop import OpenLoopSettings, drive
from streams.catch_up import newest_by_key
from tests.integration.gateway.world import START_SECONDS, World, call, until

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


class Load:
    """The open-loop driver in a thread, for as long as the context lasts."""

    def __init__(self, world: World, users: list[str], rate: float = 25.0) -> None:
        self.answers: list[Answer] = []
        self._users: Iterator[str] = itertools.cycle(world.user + user for user in users)
        self._settings = OpenLoopSettings(url=world.url, rate=rate, seconds=120, num_results=3)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()))

    async def _drive(self) -> None:
        stop = asyncio.Event()

        def note(answer: Answer) -> None:
            self.answers.append(answer)
            if self._stop.is_set():
                stop.set()

        await drive(self._settings, self._users, note, stop)

    def saw(self, version: int) -> bool:
        """Whether an answer of `version` has come."""
        return any(answer.model_version == version for answer in self.answers)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_an_event_changes_the_next_list_and_says_so(world: World) -> None:
    cold = world.recommend("ann")
    assert (cold.body["fallback"], cold.body["model_version"]) == ("cold_start", None)
    world.post(("ann-1", "ann", world.item_ids[3]))
    first = world.recommend("ann", num_results=30)
    assert (first.body["fallback"], first.body["model_version"]) == (None, 1)
    assert first.headers["x-model-version"] == "1"
    assert first.headers["x-replica"] in [url.removeprefix("http://") for url in world.replica_urls]
    assert first.headers["x-history-length"] == "1"
    listed = [item["item_id"] for item in first.body["items"]]
    assert sorted([*listed, world.item_ids[3]]) == sorted(world.item_ids)
    world.post(("ann-2", "ann", listed[0]))
    second = world.recommend("ann", num_results=30)
    assert [item["item_id"] for item in second.body["items"]] != listed[1:]  # another history, another order
    assert listed[0] not in [item["item_id"] for item in second.body["items"]]


def test_candidates_exclusions_and_versions_reach_the_model(world: World) -> None:
    world.post(("bob-1", "bob", world.item_ids[0]))
    wanted = world.item_ids[5:9]
    answer = world.recommend("bob", candidates=wanted, exclude=wanted[:1], min_model_version=1)
    assert sorted(item["item_id"] for item in answer.body["items"]) == sorted(wanted[1:])
    assert answer.body["model_version"] == 1
    cold = world.recommend("nobody", min_model_version=1)  # insists on a model: ranked from the start token
    assert (cold.body["model_version"], cold.body["fallback"]) == (1, None)
    assert world.recommend("bob", min_model_version=99).status == 503


def test_releases_roll_out_under_load_a_corrupt_one_does_not_and_operators_have_the_last_word(world: World) -> None:
    users = ["cyd", "dan", "eve"]
    world.post(*((f"{user}-1", user, world.item_ids[n]) for n, user in enumerate(users)))
    with Load(world, users) as load:
        until(lambda: load.saw(1), "an answer of version 1")
        for version in (2, 3):
            world.publish(version)
            until(lambda version=version: world.versions() == [version] * 2, f"version {version}")
            until(lambda version=version: load.saw(version), f"an answer of version {version}")
        world.publish(4, corrupt=True)
        world.publish(5)
        until(lambda: world.versions() == [5, 5], "version 5")
        until(lambda: world.live() == 5 and load.saw(5), "the live record")
        assert world.admin("pause").status == 200
        world.publish(6)
        rolled = world.admin("roll-back")
        assert rolled.status == 200, rolled.body
        assert world.versions() == [3, 3]  # 4 was never live
        assert world.admin("models/4:promote").status == 409
        assert world.versions() == [3, 3]
        assert world.admin("resume").status == 200
        until(lambda: world.versions() == [6, 6], "version 6")
    summary = summarise(load.answers)
    assert summary.dropped == 0, [answer for answer in load.answers if answer.dropped][:3]
    assert summary.fallbacks == 0
    assert {1, 2, 3, 5} <= set(summary.versions) <= {1, 2, 3, 5, 6}  # never 4
    until(lambda: world.live() == 6, "the live record")
    record = newest_by_key(world.log, RELEASES)[live_key(world.model).encode()]
    live = decode(record.value or b"", LiveVersion)
    assert (live.version, live.previous_version, live.paused) == (6, 3, False)


def test_a_replica_killed_under_load_drops_nothing_and_comes_back_to_the_live_version(world: World) -> None:
    users = ["fay", "gil"]
    world.post(*((f"{user}-1", user, world.item_ids[n]) for n, user in enumerate(users)))
    dying = world.replica_urls[0].removeprefix("http://")
    with Load(world, users, rate=60) as load:
        until(lambda: any(answer.replica == dying for answer in load.answers), "an answer of the first replica")
        world.replicas[0].popen.kill()
        world.replicas[0].popen.wait()
        world.supervisor.processes.remove(world.replicas[0])
        killed_at = len(load.answers)
        until(lambda: len(load.answers) > killed_at + 60, "answers after the kill")
        assert all(answer.replica != dying for answer in load.answers[-20:])
    summary = summarise(load.answers)
    assert summary.dropped == 0, [answer for answer in load.answers if answer.dropped][:3]
    assert world.metric("slipstream_replica_retries_total") >= 1
    version = world.versions()[1]
    assert version is not None
    world.publish(version + 1)
    until(lambda: world.versions()[1] == version + 1, "the release on the replica that is left")
    world.replicas[0] = world.start_replica(0)
    until(lambda: world.versions() == [version + 1] * 2, "the restarted replica", START_SECONDS)
    until(lambda: len({world.recommend("fay").headers["x-replica"] for _ in range(10)}) == 2, "both in rotation")


def test_with_both_replicas_dead_lists_go_on_and_say_why(world: World) -> None:
    world.post(("hal-1", "hal", world.item_ids[1]))
    for replica in world.replicas:
        replica.popen.kill()
        replica.popen.wait()
        world.supervisor.processes.remove(replica)
    answers = [world.recommend("hal") for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    assert answers[0].body["fallback"] in ("replica_failed", "no_replica")
    assert world.item_ids[1] not in [item["item_id"] for item in answers[0].body["items"]]
    assert len(answers[0].body["items"]) == 10
    until(lambda: world.recommend("hal").body["fallback"] == "no_replica", "the pool to know")
    ready = call("GET", f"{world.url}/readyz")
    assert (ready.status, set(ready.body["checks"])) == (503, {"replicas"})
    assert world.post(("hal-2", "hal", world.item_ids[2])).status == 202
