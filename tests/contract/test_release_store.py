"""The `ReleaseStore` contract, on a local folder and on a real S3 server.

The S3 half needs `versitygw` on the PATH or in $SLIPSTREAM_VERSITYGW; without it the run says that it was not shown.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from contracts import wire
from contracts.release import ReleaseKind, ReleaseManifest
from releases.bundle import RawTensor, ReleaseCorrupt
from releases.files import ObjectFiles
from releases.fsspec_store import FsspecReleaseStore
from releases.store import ReleaseMissing, ReleaseStore, VersionTaken, WriterReplaced
from releases.unavailable import StoreUnavailable
from tests.s3_server import S3Server

MODEL = "tiny"


class Place(NamedTuple):
    """A store, a second connection to it, and the folder its files lie in on this machine."""

    store: FsspecReleaseStore
    other: FsspecReleaseStore
    folder: Path

    def overwrite(self, path: str, data: bytes) -> None:
        """As a faulty writer would: on S3 by a put, so that the server's own checksum fits the wrong bytes."""
        files = self.store._files
        if isinstance(files, ObjectFiles):
            files.fs.pipe_file(f"{files.root}/{MODEL}/{path}", data)
        else:
            (self.folder / MODEL / path).write_bytes(data)


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(FsspecReleaseStore(str(tmp_path)), FsspecReleaseStore(f"file://{tmp_path}"), tmp_path)
    return s3_place(request.getfixturevalue("s3_server"), tmp_path)


def s3_place(server: S3Server, tmp_path: Path) -> Place:
    """In a bucket of its own."""
    bucket = "b" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]
    (server.folder / bucket).mkdir()
    store, other = (FsspecReleaseStore(f"s3://{bucket}/root", **server.options) for _ in range(2))
    return Place(store, other, server.folder / bucket / "root")


def weights(seed: int = 0) -> dict[str, RawTensor]:
    random = np.random.default_rng(seed)
    return {
        "embed.weight": RawTensor("F32", (5, 3), random.standard_normal((5, 3)).astype("<f4").tobytes()),
        "head.weight": RawTensor("BF16", (2, 2), random.bytes(8)),
        "scale": RawTensor("F32", (), np.float32(seed).tobytes()),
        "nothing": RawTensor("I64", (0,), b""),
    }


def manifest(version: int, epoch: int, tensors: dict[str, RawTensor], base: int | None = None) -> ReleaseManifest:
    return ReleaseManifest(
        model=MODEL,
        version=version,
        kind=ReleaseKind.FULL if base is None else ReleaseKind.DELTA,
        base_version=base,
        epoch=epoch,
        created_at=1.5,
        tensors={name: tensor.entry() for name, tensor in tensors.items()},
        offsets={0: 7, 3: 9},
        watermark=12.0,
        events_trained=16,
    )


def publish(store: ReleaseStore, version: int, epoch: int, base: int | None = None) -> str:
    tensors = weights(version)
    return store.publish(manifest(version, epoch, tensors, base), tensors)


def test_what_was_published_is_read_back_bit_for_bit(place: Place) -> None:
    tensors = weights()
    published = manifest(1, place.store.acquire_epoch(MODEL), tensors)
    sha256 = place.store.publish(published, tensors)
    bundle = place.other.read(MODEL, 1)
    assert bundle.manifest == published
    assert bundle.tensors == tensors
    assert sha256 == hashlib.sha256(wire.encode(place.other.manifest(MODEL, 1))).hexdigest()
    assert place.other.versions(MODEL) == [1]


def test_a_missing_release_is_said_to_be_missing(place: Place) -> None:
    assert place.store.versions(MODEL) == []
    with pytest.raises(ReleaseMissing, match="no release 4"):
        place.store.read(MODEL, 4)


def test_a_version_is_never_used_twice_nor_one_below_the_newest(place: Place) -> None:
    epoch = place.store.acquire_epoch(MODEL)
    publish(place.store, 5, epoch)
    for version in (5, 4):
        with pytest.raises(VersionTaken, match="take 6"):
            publish(place.store, version, epoch)
    publish(place.store, 7, epoch)
    assert place.store.versions(MODEL) == [5, 7]
    assert place.store.read(MODEL, 5).tensors == weights(5)


def test_a_replaced_writer_publishes_nothing(place: Place) -> None:
    old = place.store.acquire_epoch(MODEL)
    publish(place.store, 1, old)
    new = place.other.acquire_epoch(MODEL)
    assert new > old
    with pytest.raises(WriterReplaced, match="taken over"):
        publish(place.store, 2, old)
    assert place.store.versions(MODEL) == [1]
    publish(place.other, 2, new)


def test_writers_that_race_get_different_epochs(place: Place) -> None:
    epochs: list[int] = []
    threads = [
        threading.Thread(target=lambda store=store: epochs.append(store.acquire_epoch(MODEL)))
        for store in [place.store, place.other] * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epochs) == list(range(1, 9))


def test_half_a_release_does_not_exist_and_its_number_can_be_used(place: Place) -> None:
    epoch = place.store.acquire_epoch(MODEL)
    publish(place.store, 1, epoch)
    (place.folder / MODEL / "manifests" / "000000000001.json").unlink()
    assert place.other.versions(MODEL) == []
    with pytest.raises(ReleaseMissing):
        place.other.read(MODEL, 1)
    tensors = weights(99)
    place.store.publish(manifest(1, epoch, tensors), tensors)
    assert place.other.read(MODEL, 1).tensors == tensors


@pytest.mark.parametrize("damage", ["flip", "truncate", "grow", "empty", "other"])
def test_damaged_tensors_are_refused(place: Place, damage: str) -> None:
    epoch = place.store.acquire_epoch(MODEL)
    publish(place.store, 1, epoch)
    publish(place.store, 2, epoch)
    folder = place.folder / MODEL / "tensors"
    file = folder / f"000000000001-e{epoch:010d}.safetensors"
    whole = file.read_bytes()
    # The last byte lies in the data, not in the header.
    damaged = {
        "flip": whole[:-1] + bytes([whole[-1] ^ 1]),
        "truncate": whole[:-1],
        "grow": whole + b"\0",
        "empty": b"",
        "other": (folder / f"000000000002-e{epoch:010d}.safetensors").read_bytes(),
    }[damage]
    place.overwrite(f"tensors/{file.name}", damaged)
    with pytest.raises(ReleaseCorrupt):
        place.other.read(MODEL, 1)
    assert place.other.read(MODEL, 2).tensors == weights(2)


def test_a_bit_that_rots_on_the_disk_is_noticed(place: Place) -> None:
    epoch = place.store.acquire_epoch(MODEL)
    publish(place.store, 1, epoch)
    for file in (place.folder / MODEL).glob("*/000000000001*"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ReleaseCorrupt):
            place.other.read(MODEL, 1)
        file.write_bytes(whole)
    assert place.other.read(MODEL, 1).tensors == weights(1)


def test_every_flipped_bit_of_the_tensors_is_noticed(tmp_path: Path) -> None:
    store = FsspecReleaseStore(str(tmp_path))
    epoch = store.acquire_epoch(MODEL)
    publish(store, 1, epoch)
    file = tmp_path / MODEL / "tensors" / f"000000000001-e{epoch:010d}.safetensors"
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            found = store.read(MODEL, 1).tensors
        except ReleaseCorrupt:
            continue
        # Padding of the header carries nothing; a flip there must not change what is read.
        assert found == weights(1), f"byte {position} was flipped and read as good"


def test_tensors_that_are_gone_are_missing(place: Place) -> None:
    epoch = place.store.acquire_epoch(MODEL)
    publish(place.store, 1, epoch)
    (place.folder / MODEL / "tensors" / f"000000000001-e{epoch:010d}.safetensors").unlink()
    with pytest.raises(ReleaseMissing, match="tensors of release 1"):
        place.other.read(MODEL, 1)


@pytest.mark.parametrize("text", [b"", b"{}", b"not json"])
def test_a_damaged_manifest_is_refused(place: Place, text: bytes) -> None:
    publish(place.store, 1, place.store.acquire_epoch(MODEL))
    place.overwrite("manifests/000000000001.json", text)
    with pytest.raises(ReleaseCorrupt, match="manifest"):
        place.other.read(MODEL, 1)


def test_a_manifest_in_another_version_s_place_is_refused(place: Place) -> None:
    epoch = place.store.acquire_epoch(MODEL)
    publish(place.store, 1, epoch)
    publish(place.store, 2, epoch)
    manifests = place.folder / MODEL / "manifests"
    place.overwrite("manifests/000000000002.json", (manifests / "000000000001.json").read_bytes())
    with pytest.raises(ReleaseCorrupt, match="manifest is of tiny 1"):
        place.other.read(MODEL, 2)


def test_retention_keeps_the_newest_the_named_and_what_their_deltas_stand_on(place: Place) -> None:
    epoch = place.store.acquire_epoch(MODEL)
    for version, base in [(1, None), (2, 1), (3, 2), (4, None), (5, None), (6, None)]:
        publish(place.store, version, epoch, base)
    assert place.store.remove_old(MODEL, keep_last=1, keep=frozenset({3, 77})) == [4, 5]
    assert place.other.versions(MODEL) == [1, 2, 3, 6]
    assert place.store.remove_old(MODEL, keep_last=2, keep=frozenset()) == []
    assert place.store.remove_old(MODEL, keep_last=1, keep=frozenset()) == [1, 2, 3]
    assert len(list((place.folder / MODEL / "tensors").glob("*.safetensors"))) == 1
    assert place.other.read(MODEL, 6).tensors == weights(6)
    with pytest.raises(ReleaseMissing):
        place.other.read(MODEL, 3)


def test_retention_removes_what_a_dead_writer_left_half_done(place: Place) -> None:
    dead = place.store.acquire_epoch(MODEL)
    publish(place.store, 1, dead)
    (place.folder / MODEL / "manifests" / "000000000001.json").unlink()
    publish(place.other, 2, place.other.acquire_epoch(MODEL))
    place.other.remove_old(MODEL, keep_last=5, keep=frozenset())
    assert len(list((place.folder / MODEL / "tensors").glob("*.safetensors"))) == 1
    assert place.other.read(MODEL, 2).tensors == weights(2)


def test_the_newest_release_can_not_be_removed(place: Place) -> None:
    with pytest.raises(ValueError, match="newest version must stay"):
        place.store.remove_old(MODEL, keep_last=0, keep=frozenset())


def test_models_do_not_see_one_another_and_names_can_not_leave_the_root(place: Place) -> None:
    publish(place.store, 1, place.store.acquire_epoch(MODEL))
    assert place.store.versions("another") == []
    assert place.store.acquire_epoch("another") == 1
    with pytest.raises(ValueError, match="regex"):
        place.store.versions("../tiny")


def test_a_store_without_conditional_put_is_refused() -> None:
    with pytest.raises(ValueError, match="no conditional put"):
        FsspecReleaseStore("memory://releases")


def test_a_server_that_is_away_is_said_to_be_and_is_used_again_when_it_is_back(
    s3_server: S3Server, tmp_path: Path
) -> None:
    place = s3_place(s3_server, tmp_path)
    epoch = place.store.acquire_epoch(MODEL)
    publish(place.store, 1, epoch)
    s3_server.stop()
    try:
        for call in (
            lambda: publish(place.store, 2, epoch),
            lambda: place.other.read(MODEL, 1),
            lambda: place.other.acquire_epoch(MODEL),
            lambda: place.store.remove_old(MODEL, 1, frozenset()),
        ):
            with pytest.raises(StoreUnavailable, match=f"{place.store.root_url}.*AWS_ENDPOINT_URL"):
                call()
    finally:
        s3_server.start()
    publish(place.store, 2, epoch)
    assert place.other.versions(MODEL) == [1, 2]
