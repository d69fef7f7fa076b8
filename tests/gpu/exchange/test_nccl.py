"""The synchronous exchange over NCCL: two GPUs, two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.gpu
def test_collectives_and_the_hook_over_nccl() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.device_count() < 2:
        pytest.skip("fewer than two NVIDIA GPUs")
    command = [sys.executable, str(Path(__file__).with_name("ranks.py")), "nccl"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["backend"] == "nccl" and set(found["step_ms"]) == {"fp32", "bf16", "compressed"}
