"""A replica over the plain-PyTorch engine, a folder of releases and a log in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from contracts.topics import RELEASES
from releases.fsspec_store import FsspecReleaseStore
from serving.engine import EngineSettings
from serving.replica import UNRELEASED, Replica
from serving.replica_app import create_app
from serving.torch_engine import TorchEngine
from streams.memory_log import MemoryEventLog, MemoryStore
from tests.serving_worlds import MODEL, manifest_of, tensors_of, write_recommenders


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_recommenders(tmp_path_factory.mktemp("models"), 3, num_items=100)


@pytest.fixture
def store(tmp_path: Path, model_dirs: list[Path]) -> FsspecReleaseStore:
    """Releases 1, 2 and 3."""
    found = FsspecReleaseStore(str(tmp_path / "releases"))
    epoch = found.acquire_epoch(MODEL)
    for version, model_dir in enumerate(model_dirs, start=1):
        tensors = tensors_of(model_dir)
        found.publish(manifest_of(tensors, version, epoch), tensors)
    return found


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog(MemoryStore({RELEASES: 1}))


@pytest_asyncio.fixture
async def replica(store: FsspecReleaseStore, model_dirs: list[Path]) -> Replica:
    """Started, not yet brought up."""
    found = Replica("r0", MODEL, TorchEngine(EngineSettings(model_dirs[0])), "torch", store, max_in_flight=4)
    await found.engine.start(UNRELEASED)
    return found


@pytest_asyncio.fixture
async def client(replica: Replica) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(replica))
    async with httpx2.AsyncClient(transport=transport, base_url="http://replica") as found:
        yield found
