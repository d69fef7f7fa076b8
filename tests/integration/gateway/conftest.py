"""One world a module: its start is the dear part (two processes import torch)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.item import Item
from releases.fsspec_store import FsspecReleaseStore
from slipstream.processes import Supervisor
from streams.kafka_log import KafkaEventLog
from streams.topics import apply_topics
from tests.integration.gateway.world import START_SECONDS, World, call, until


@pytest.fixture(scope="module")
def world(
    kafka_bootstrap: str, _declared_topics_are_ours: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    apply_topics(kafka_bootstrap, replication_factor=1)
    directory = tmp_path_factory.mktemp("gateway-world")
    items = [Item(item_id=f"gateway-item-{number}") for number in range(30)]
    weights = _model(directory / "model", items)
    store_url = str(directory / "releases")
    supervisor = Supervisor(directory / "logs")
    made = World(
        supervisor=supervisor,
        bootstrap=kafka_bootstrap,
        model_dir=directory / "model",
        store=FsspecReleaseStore(store_url),
        store_url=store_url,
        log=KafkaEventLog(kafka_bootstrap, client_id="gateway-world"),
        weights=weights,
        item_ids=[item.item_id for item in items],
    )
    try:
        made.publish_items()
        made.publish(1)
        made.replicas = [made.start_replica(number) for number in range(2)]
        made.start_gateway()
        until(lambda: supervisor.check() or made.versions() == [1, 1], "replicas", START_SECONDS)
        until(lambda: supervisor.check() or call("GET", f"{made.url}/readyz").status == 200, "gateway", START_SECONDS)
        yield made
    finally:
        supervisor.stop_all()
        made.log.close()


def _model(model_dir: Path, items: list[Item]) -> dict:
    import torch

    from online_trainer.tensors import to_raw
    from recommender.initialise import preset_recommender
    from recommender.loading import checkpoint_tensors, save_recommender

    torch.set_num_threads(1)
    recommender = preset_recommender("tiny", items, seed=1)
    save_recommender(recommender, model_dir)
    return to_raw(checkpoint_tensors(recommender.model))
