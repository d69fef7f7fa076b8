"""The Triton kernels, run by Triton's interpreter, through the same tests: one process an op.

A process of its own because Triton decides when it is first imported, and vLLM or PyTorch may have done that here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OPS = ["compress", "decompress_accumulate", "apply", "delta", "topk_logits", "wire"]


@pytest.mark.skipif(os.environ.get("KERNELS_BACKEND", "numba") != "numba", reason="is itself such a run")
@pytest.mark.parametrize("op", OPS)
def test_triton_kernels_under_the_interpreter(op: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-c", str(HERE / "checks.ini"), f"--confcutdir={HERE}"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "KERNELS_BACKEND": "interpreter", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, str(HERE / f"test_{op}.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
