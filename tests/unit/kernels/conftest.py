"""The back-end under test. The same files run three times:

`numba` here and in `make test`; `interpreter` in a process of its own, started by `test_interpreter.py`, because
Triton must be told before it is first imported; `cuda` from `tests/gpu/kernels` and `slipstream bench kernels`.
"""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

import numba
import pytest
import torch
from hypothesis import HealthCheck, settings

from kernels.payload import CompressionSpec, Quantizer

BACKEND = os.environ.get("KERNELS_BACKEND", "numba")
torch.set_num_threads(1)
# Two threads a call of microseconds would spend it waiting for each other.
numba.set_num_threads(1)
settings.register_profile(
    "kernels",
    deadline=None,
    derandomize=True,
    max_examples=3 if BACKEND == "interpreter" else 40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("kernels")


_TOO_MANY_FOR_THE_INTERPRETER = re.compile(
    r"test_decompress.*\[(int4|int8|fp8)-(17|8)-|test_decompress.*sixty_four|test_decompress.*sizes\[(4095|8193)"
    r"|test_compress.*test_contracts\[.*(ties|sparse|heavy)|test_compress.*reference\[(int4|int8).*(equal|zero|sparse|ties|normal)"
    r"|test_compress.*(int4|int8|fp8)-steps|test_wire.*back\[(int4|int8|fp8).*(dense|sparse)"
    r"|test_wire.*back\[(int4|int8|fp8)-5000|test_wire.*back\[.*-1-(sparse|rows|far)|test_wire.*flipped.*\[(4|5|9|20)\]"
    r"|test_wire.*longer_than_the_bound|test_topk.*cuts1|test_topk.*dtype0-5-3001|test_topk.*dtype0-17"
)
"""Combinations that add minutes and no code path: the interpreter runs a program at a time, in numpy."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave those out under the interpreter."""
    if BACKEND == "interpreter":
        items[:] = [item for item in items if not _TOO_MANY_FOR_THE_INTERPRETER.search(item.nodeid)]


def pytest_report_header() -> str:
    """Which back-end this run is about."""
    return f"kernels back-end: {BACKEND}"


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.empty` gives NaN or 0xA5 bytes, so that an element nobody wrote shows."""
    empty = torch.empty

    def poisoned(*sizes: object, **options: object) -> torch.Tensor:
        tensor = empty(*sizes, **options)
        return tensor.fill_(
            float("nan") if tensor.is_floating_point() else 0xA5 if tensor.dtype == torch.uint8 else -91
        )

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def device() -> str:
    """Where inputs go."""
    return "cuda" if BACKEND == "cuda" else "cpu"


@pytest.fixture(autouse=True)
def chosen_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the interpreter, CPU tensors take the Triton path."""
    if BACKEND == "interpreter":
        from interpreted import route_to_triton

        route_to_triton(monkeypatch)


@pytest.fixture
def small_spec() -> CompressionSpec:
    """A chunk small enough for the interpreter."""
    return CompressionSpec(chunk=256, slots=8)


@pytest.fixture
def sizes() -> SimpleNamespace:
    """How much work a back-end can take."""
    return SimpleNamespace(slow=BACKEND == "interpreter")


@pytest.fixture(params=list(Quantizer), ids=lambda quantizer: quantizer.value)
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    """Every quantizer in turn."""
    return request.param
