"""The pages' commands are run as a reader would: `sh` blocks here, `console` blocks where the table below says."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streams.broker import free_port

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
PORTS = ("8080", "8081", "8100", "8200", "8300", "9092")
RUN_ELSEWHERE = {
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "make lint": ".ci/run",
    "make install": ".ci/run",
    "make test-gpu": "by hand on a GPU machine, before an issue that needs one is resolved",
    "python3 -m venv .venv-gpu": "by hand on a GPU machine",
    ".venv-gpu/bin/pip install -e '.[demo-gpu,kernels]' --group dev": "by hand on a GPU machine",
    "slipstream init --base path/to/causal-lm --dataset ml-100k --out model": "tests/unit/recommender",
    "slipstream pretrain --model model --dataset ml-100k --out model": "tests/unit/recommender",
}


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_run_somewhere(page: Path) -> None:
    for block in _blocks(page, "console"):
        for line in block.splitlines():
            command = line.split("  #")[0].strip()
            assert command in RUN_ELSEWHERE, f"{page.name}: nothing runs {command!r}"


def test_ci_runs_what_the_table_says() -> None:
    ci = (ROOT / ".ci/run").read_text()
    for command, where in RUN_ELSEWHERE.items():
        if where == ".ci/run":
            assert command in ci


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(360)
@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "sh")], ids=lambda page: page.name)
def test_the_page_runs(page: Path, tmp_path: Path) -> None:
    script = "\n".join(_blocks(page, "sh"))
    for port in PORTS:
        script = re.sub(rf"\b{port}\b", str(free_port()), script)
    script = (
        f"set -eu -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{script}\necho the page ran\n"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "2"}
    with (tmp_path / "output").open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        code = shell.wait(timeout=340)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    said = (tmp_path / "output").read_text(errors="replace")
    assert code == 0 and "\nthe page ran\n" in said, said[-6000:]
