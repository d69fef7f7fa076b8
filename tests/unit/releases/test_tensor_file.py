"""Both writers make files that the library reads back as they were."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from releases.bundle import RawTensor
from releases.tensor_file import read_tensors, write_tensors, write_tensors_to

TENSORS = {
    "half": RawTensor("BF16", (3, 5), bytes(range(30))),
    "whole": RawTensor("F32", (2, 2), memoryview(np.arange(4, dtype=np.float32))),
    "empty": RawTensor("F32", (0, 7), b""),
    "one": RawTensor("I64", (), bytes(8)),
    "odd": RawTensor("U8", (3,), b"abc"),
}


def _streamed() -> bytes:
    file = io.BytesIO()
    write_tensors_to(file, TENSORS)
    return file.getvalue()


@pytest.mark.parametrize("octets", [write_tensors(TENSORS), _streamed()], ids=["library", "tensor by tensor"])
def test_reads_back(octets: bytes, tmp_path: Path) -> None:
    found = read_tensors(octets)
    assert {name: (tensor.dtype, tensor.shape, bytes(tensor.data)) for name, tensor in found.items()} == {
        name: (tensor.dtype, tensor.shape, memoryview(tensor.data).tobytes()) for name, tensor in TENSORS.items()
    }
    path = tmp_path / "weights.safetensors"
    path.write_bytes(octets)
    with safe_open(path, framework="np") as file:
        assert file.get_tensor("whole").tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_header_is_aligned() -> None:
    """Whoever maps the file reads the first tensor from a multiple of 8."""
    assert int.from_bytes(_streamed()[:8], "little") % 8 == 0
