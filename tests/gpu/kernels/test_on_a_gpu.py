"""Every op's tests again, on a GPU: the same files with CUDA tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).parents[2] / "unit" / "kernels"
OPS = ["compress", "decompress_accumulate", "apply", "delta", "topk_logits", "wire"]


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_kernels_on_cuda(op: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-c", str(CHECKS / "checks.ini"), f"--confcutdir={CHECKS}"]
    result = subprocess.run(
        [*command, str(CHECKS / f"test_{op}.py")],
        env=os.environ | {"KERNELS_BACKEND": "cuda"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
