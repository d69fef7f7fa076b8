"""The replica's API: ready at the live version, swapping, refusing, draining."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.problem import PROBLEM_JSON
from contracts.replica import RankAnswer, RankRequest, ReplicaState, ReplicaStatus, SwapReport
from contracts.wire import decode, encode
from releases import store_watch
from releases.unavailable import StoreUnavailable
from serving.engine import EngineDead
from serving.replica import Replica
from serving.replica_app import BODY_LIMIT_BYTES
from tests.serving_worlds import until


async def version_one() -> int:
    return 1


async def rank(client: httpx2.AsyncClient, **fields: Any) -> httpx2.Response:
    return await client.post("/v1/rank", json={"request_id": "t", "history": ["item-1"], **fields})


async def status(client: httpx2.AsyncClient) -> ReplicaStatus:
    return decode((await client.get("/v1/status")).content, ReplicaStatus)


def problem_of(response: httpx2.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == PROBLEM_JSON
    found: dict[str, Any] = response.json()
    assert found["status"] == response.status_code
    return found


async def test_is_not_ready_before_it_has_reached_a_release(client: httpx2.AsyncClient, replica: Replica) -> None:
    assert (await client.get("/livez")).status_code == 200
    for response in (await client.get("/readyz"), await rank(client), await client.get("/v1/checksum")):
        assert "starting" in problem_of(response)["detail"]
        assert response.status_code == 503
    assert (await status(client)).version is None
    await replica.bring_up(version_one)
    assert (await client.get("/readyz")).status_code == 200
    found = await status(client)
    assert (found.version, found.state, found.staged_version) == (1, ReplicaState.READY, None)
    assert (await rank(client)).json()["model_version"] == 1


async def test_swaps_over_http_and_rolls_back_once(client: httpx2.AsyncClient, replica: Replica) -> None:
    await replica.bring_up(version_one)
    first = (await client.get("/v1/checksum")).json()["checksum"]
    refused = await client.post("/v1/releases/roll-back")
    assert refused.status_code == 409, "the folder's weights are no release to go back to"
    staged = decode((await client.post("/v1/releases/stage", json={"version": 2})).content, ReplicaStatus)
    assert (staged.staged_version, staged.version, staged.state) == (2, 1, ReplicaState.READY)
    report = decode((await client.post("/v1/releases/commit", json={"version": 2})).content, SwapReport)
    assert (report.version, report.previous_version) == (2, 1)
    assert (await rank(client)).json()["model_version"] == 2
    back = decode((await client.post("/v1/releases/roll-back")).content, SwapReport)
    assert (back.version, back.checksum) == (1, first)
    assert problem_of(await client.post("/v1/releases/roll-back"))["type"].endswith("/swap-refused")


@pytest.mark.parametrize(("version", "code", "kind"), [(9, 404, "release-missing"), (3, 422, "release-corrupt")])
async def test_a_release_that_cannot_be_used_is_refused_and_serving_goes_on(
    client: httpx2.AsyncClient, replica: Replica, tmp_path: Path, version: int, code: int, kind: str
) -> None:
    await replica.bring_up(version_one)
    (third,) = (tmp_path / "releases").glob("*/tensors/000000000003-*")
    data = bytearray(third.read_bytes())
    data[-1] ^= 1
    third.write_bytes(data)
    response = await client.post("/v1/releases/stage", json={"version": version})
    assert response.status_code == code
    assert problem_of(response)["type"].endswith(kind)
    found = await status(client)
    assert (found.state, found.version, found.staged_version) == (ReplicaState.READY, 1, None)
    assert (await rank(client)).status_code == 200
    assert (await client.post("/v1/releases/commit", json={"version": version})).status_code == 409


async def test_a_store_that_is_away_is_said_to_be_and_serving_goes_on(
    client: httpx2.AsyncClient, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.bring_up(version_one)
    with monkeypatch.context() as away:
        away.setattr(replica._store, "read", _away)
        response = await client.post("/v1/releases/stage", json={"version": 2})
        assert response.status_code == 503
        assert problem_of(response)["type"].endswith("/store-unavailable")
        assert "bucket can't be reached" in problem_of(response)["detail"]
        assert response.headers["Retry-After"]
        assert (await status(client)).state is ReplicaState.READY
        assert (await rank(client)).json()["model_version"] == 1
        assert sample(replica, "store_up") == 0
    assert (await client.post("/v1/releases/stage", json={"version": 2})).status_code == 200
    assert (sample(replica, "store_up"), sample(replica, "store_unavailable_total")) == (1, 1)


async def test_a_start_waits_for_a_store_that_is_away(
    client: httpx2.AsyncClient, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_watch, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(store_watch, "_LONGEST_PAUSE_SECONDS", 0.02)
    with monkeypatch.context() as away:
        away.setattr(replica._store, "read", _away)
        starting = asyncio.create_task(replica.bring_up(version_one))
        await until(lambda: starting.done() or sample(replica, "store_unavailable_total") >= 3)
        assert not starting.done()
        assert "bucket can't be reached" in problem_of(await client.get("/readyz"))["detail"]
    await starting
    assert (await rank(client)).json()["model_version"] == 1


def _away(*_: object) -> None:
    raise StoreUnavailable("s3://bucket can't be reached")


def sample(replica: Replica, name: str) -> float:
    return replica.metrics.registry.get_sample_value(f"slipstream_replica_{name}") or 0.0


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b'{"request_id": "t"}', 422, ""),
        (b'{"request_id": "t", "history": ["a", 7]}', 422, "/history/1"),
        (b'{"request_id": "t", "history": [], "num_results": 501}', 422, "/num_results"),
        (b"x" * (BODY_LIMIT_BYTES + 1), 413, None),
    ],
)
async def test_bad_bodies_get_a_problem_that_points_at_the_field(
    client: httpx2.AsyncClient, replica: Replica, body: bytes, code: int, pointer: str | None
) -> None:
    await replica.bring_up(version_one)
    response = await client.post("/v1/rank", content=body)
    assert response.status_code == code
    document = problem_of(response)
    if pointer is not None:
        assert document["errors"][0]["pointer"] == pointer


async def test_takes_so_many_recommendations_and_no_more(
    client: httpx2.AsyncClient, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.bring_up(version_one)
    go_on = hold(replica, monkeypatch)
    inside = [asyncio.create_task(rank(client)) for _ in range(4)]
    await until(lambda: replica.in_flight == 4)
    full = await rank(client)
    assert full.status_code == 503
    assert full.headers["retry-after"] == "1"
    assert problem_of(full)["type"].endswith("replica-overloaded")
    go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*inside)] == [200] * 4


def hold(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Recommendations wait in the engine until the event is set."""
    go_on, real = asyncio.Event(), replica.engine.recommend

    async def recommend(request: RankRequest) -> RankAnswer:
        await go_on.wait()
        return await real(request)

    monkeypatch.setattr(replica.engine, "recommend", recommend)
    return go_on


async def test_drains_what_is_inside_and_takes_nothing_new(
    client: httpx2.AsyncClient, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.bring_up(version_one)
    go_on = hold(replica, monkeypatch)
    inside = [asyncio.create_task(rank(client)) for _ in range(4)]
    await until(lambda: replica.in_flight == 4)
    draining = asyncio.create_task(replica.drain(5.0))
    await until(lambda: replica.lifecycle.state is ReplicaState.DRAINING)
    assert (await rank(client)).status_code == 503
    assert not draining.done()
    go_on.set()
    await asyncio.wait_for(draining, 5)
    assert [answer.status_code for answer in await asyncio.gather(*inside)] == [200] * 4


async def test_a_lost_engine_takes_the_replica_out_of_service(
    client: httpx2.AsyncClient, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.bring_up(version_one)

    async def die(request: RankRequest) -> None:
        raise EngineDead("the engine process is gone")

    monkeypatch.setattr(replica.engine, "recommend", die)
    assert problem_of(await rank(client))["type"].endswith("engine-dead")
    assert (await client.get("/readyz")).status_code == 503
    assert (await status(client)).state is ReplicaState.FAILED


async def test_a_roll_back_does_not_wait_for_a_release_that_is_being_staged(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.bring_up(version_one)
    await replica.stage(2)
    await replica.commit(2)
    go_on, real = asyncio.Event(), replica.engine.stage

    async def slowly(bundle: Any) -> None:
        await go_on.wait()
        await real(bundle)

    monkeypatch.setattr(replica.engine, "stage", slowly)
    staging = asyncio.create_task(replica.stage(3))
    await until(lambda: replica.lifecycle.state is ReplicaState.PREPARING)
    assert (await replica.roll_back()).version == 1
    assert replica.lifecycle.state is ReplicaState.PREPARING
    go_on.set()
    assert (await staging).staged_version == 3
    assert replica.lifecycle.state is ReplicaState.READY


async def test_tells_prometheus(client: httpx2.AsyncClient, replica: Replica) -> None:
    await replica.bring_up(version_one)
    await replica.stage(2)
    await replica.commit(2)
    await replica.rank(RankRequest(request_id="t", history=[]))
    text = (await client.get("/metrics")).text
    assert "slipstream_replica_model_version 2.0" in text
    assert 'slipstream_replica_rank_total{outcome="answered"} 1.0' in text
    for phase in ("read", "stage", "drain", "apply"):
        assert f'slipstream_replica_swap_seconds_count{{phase="{phase}"}}' in text


def test_a_rank_request_survives_the_wire() -> None:
    request = RankRequest(request_id="t", history=["a"], exclude=["b"], candidates=[])
    assert decode(encode(request), RankRequest) == request
