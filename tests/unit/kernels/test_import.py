"""`kernels` is also a Hugging Face package that `transformers` probes for: ours must be light and not taken for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert run("import sys, kernels; print({'torch', 'triton', 'numba'} & set(sys.modules))") == "set()"
    assert run("import kernels; print(hasattr(kernels, '__version__'))") == "False"


def test_the_cpu_paths_do_without_triton() -> None:
    code = "import sys, kernels.compress, kernels.delta, kernels.wire, kernels.apply, kernels.topk_logits as t; "
    assert (
        run(code + "import torch; t.topk_logits(torch.eye(4), torch.eye(4), 2); print('triton' in sys.modules)")
        == "False"
    )


def test_transformers_imports_with_the_repository_on_the_path() -> None:
    code = "import transformers; from transformers import Qwen3ForCausalLM; import kernels; print(kernels.__file__)"
    assert run(code) == str(ROOT / "kernels" / "__init__.py")
