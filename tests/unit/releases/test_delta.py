"""Deltas: absolute values on a named base; a chain ends bit-identical to the anchor it could have been."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from contracts.release import ReleaseKind, ReleaseManifest
from releases.bundle import RawTensor, ReleaseCorrupt
from releases.delta import POSITIONS, VALUES, apply_delta, make_delta, num_bytes
from releases.fsspec_store import FsspecReleaseStore


def raw(values: np.ndarray, dtype: str = "F32") -> RawTensor:
    return RawTensor(dtype, values.shape, values.tobytes())


def weights(seed: int, like: dict[str, RawTensor] | None = None) -> dict[str, RawTensor]:
    """Some tensors; with `like` a few of their elements are others."""
    random = np.random.default_rng(seed)
    if like is None:
        return {
            "a": raw(random.standard_normal((20, 30), dtype=np.float32)),
            "b": raw(random.integers(0, 2**16, 77, dtype=np.uint16), "BF16"),
            "same": raw(np.ones(5, np.float32)),
        }
    a = np.frombuffer(like["a"].data, np.float32).copy().reshape(20, 30)
    a.reshape(-1)[random.choice(600, 12, replace=False)] = random.standard_normal(12, dtype=np.float32)
    a[0, 0] = -0.0 if seed % 2 else 0.0
    b = np.frombuffer(like["b"].data, np.uint16).copy()
    b[random.choice(77, 3, replace=False)] ^= 1
    return {"a": raw(a), "b": raw(b, "BF16"), "same": like["same"]}


def test_a_delta_leads_from_one_to_the_other_bit_for_bit() -> None:
    old = weights(0)
    new = weights(1, old)
    delta = make_delta(old, new)
    assert apply_delta(old, delta) == new
    assert num_bytes(delta) < num_bytes(new) / 4
    assert not any(name.startswith("same") for name in delta)
    assert make_delta(new, new) == {}


def test_a_delta_on_the_wrong_tensors_is_refused() -> None:
    old = weights(0)
    delta = make_delta(old, weights(1, old))
    with pytest.raises(ReleaseCorrupt, match="lack"):
        apply_delta({"b": old["b"]}, delta)
    delta["a" + POSITIONS] = raw(np.array([600], np.int32), "I32")
    delta["a" + VALUES] = raw(np.zeros(1, np.float32))
    with pytest.raises(ReleaseCorrupt, match="outside a"):
        apply_delta(old, delta)
    with pytest.raises(ValueError, match="publish an anchor"):
        make_delta({"b": old["b"]}, old)


def publish(
    store: FsspecReleaseStore, version: int, tensors: dict[str, RawTensor], base: dict[str, RawTensor] | None
) -> None:
    delta = make_delta(base, tensors) if base is not None else None
    manifest = ReleaseManifest(
        model="m",
        version=version,
        kind=ReleaseKind.FULL if delta is None else ReleaseKind.DELTA,
        base_version=None if delta is None else version - 1,
        epoch=1,
        created_at=time.time(),
        tensors={name: tensor.entry() for name, tensor in tensors.items()},
        patch=None if delta is None else {name: tensor.entry() for name, tensor in delta.items()},
        offsets={},
    )
    store.publish(manifest, tensors if delta is None else delta)


@pytest.fixture
def chain(tmp_path: Path) -> list[dict[str, RawTensor]]:
    """Four releases in `tmp_path`: an anchor and three deltas."""
    store = FsspecReleaseStore(str(tmp_path))
    store.acquire_epoch("m")
    releases: list[dict[str, RawTensor]] = []
    for version in range(1, 5):
        releases.append(weights(version, releases[-1] if releases else None))
        publish(store, version, releases[-1], releases[-2] if len(releases) > 1 else None)
    return releases


def test_a_reader_that_lags_ends_bit_identical(chain: list[dict[str, RawTensor]], tmp_path: Path) -> None:
    fresh = FsspecReleaseStore(str(tmp_path))
    assert fresh.read("m", 4).tensors == chain[3]
    assert fresh.manifest("m", 4).kind is ReleaseKind.DELTA
    assert fresh.read("m", 4).manifest.kind is ReleaseKind.FULL, "an engine needs not know of deltas"
    assert fresh.read("m", 2).tensors == chain[1]
    following = FsspecReleaseStore(str(tmp_path))
    for version in (1, 2, 3, 4):
        assert following.read("m", version).tensors == chain[version - 1]


def test_a_damaged_link_of_the_chain_is_refused(chain: list[dict[str, RawTensor]], tmp_path: Path) -> None:
    path = tmp_path / "m/tensors/000000000003-e0000000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ReleaseCorrupt, match="release 3"):
        FsspecReleaseStore(str(tmp_path)).read("m", 4)
    assert FsspecReleaseStore(str(tmp_path)).read("m", 2).tensors == chain[1]


def test_retention_keeps_the_whole_chain_below_a_kept_delta(chain: list[dict[str, RawTensor]], tmp_path: Path) -> None:
    store = FsspecReleaseStore(str(tmp_path))
    assert store.remove_old("m", keep_last=1, keep=frozenset()) == []
    assert store.read("m", 4).tensors == chain[3]
