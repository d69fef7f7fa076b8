"""The Triton kernels, run by Triton's interpreter, through the same tests: one process an op.

A process of its own because Triton decides when it is first imported, and vLLM or PyTorch may have done that here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OPS = ["wire", "topk_logits", "compress", "decompress_accumulate", "apply", "delta"]
"""The longest first."""


Runs = dict[str, Future[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """All ops, as many side by side as there are cores: the interpreter has one thread."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {op: pool.submit(interpreted, op) for op in OPS}


def interpreted(op: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-c", str(HERE / "checks.ini"), f"--confcutdir={HERE}"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "KERNELS_BACKEND": "interpreter", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(HERE / f"test_{op}.py")], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(os.environ.get("KERNELS_BACKEND", "numba") != "numba", reason="is itself such a run")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("op", OPS)
def test_triton_kernels_under_the_interpreter(runs: Runs, op: str) -> None:
    result = runs[op].result()
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
