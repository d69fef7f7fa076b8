"""Test an op, and only if it is green, time it; rows as every `slipstream bench` writes them."""

from __future__ import annotations

import gc
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from kernels.bench.case import Case, Maker
from kernels.bench.compression import compress_cases, decompress_cases, wire_cases
from kernels.bench.serving import delta_cases, topk_cases
from kernels.bench.timing import copy_bandwidth, time_case
from kernels.bench.training import apply_cases

OPS: dict[str, Maker] = {
    "compress": compress_cases,
    "decompress_accumulate": decompress_cases,
    "apply": apply_cases,
    "delta": delta_cases,
    "topk_logits": topk_cases,
    "wire": wire_cases,
}
Row = dict[str, object]
_TESTS = Path(__file__).parents[2] / "tests" / "unit" / "kernels"


class RefusedToTime(Exception):
    """An op whose tests are red, or can't be run here."""


def check(ops: list[str], device: str) -> None:
    """Run the ops' tests on `device`.

    Raises:
        RefusedToTime: pytest or the tests are missing, or some are red; the text ends with pytest's summary.
    """
    if importlib.util.find_spec("pytest") is None or importlib.util.find_spec("hypothesis") is None:
        raise RefusedToTime(
            "pytest and hypothesis are not installed here, so no op can be checked: install the dev group"
        )
    if not _TESTS.is_dir():
        raise RefusedToTime(f"no tests at {_TESTS}: run the bench from a checkout of the repository")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:benchmark",
        "-c",
        str(_TESTS / "checks.ini"),
        f"--confcutdir={_TESTS}",
    ]
    if device == "cuda" and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(min(14, os.cpu_count() or 1))]
    command += [str(_TESTS / f"test_{op}.py") for op in ops]
    backend = "cuda" if device == "cuda" else "numba"
    result = subprocess.run(
        command, env=os.environ | {"KERNELS_BACKEND": backend}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-30:])
        raise RefusedToTime(
            f"tests of {', '.join(ops)} are red on {device}; nothing was timed\n{tail}{result.stderr[-500:]}"
        )


def machine(device: str) -> dict[str, object]:
    """What a figure is worth nothing without."""
    found: dict[str, object] = {"torch": torch.__version__, "python": platform.python_version(), "cpus": os.cpu_count()}
    for name in ("triton", "numba"):
        if importlib.util.find_spec(name) is not None:
            found[name] = __import__(name).__version__
    found["device"] = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def rows_of(case: Case, device: str, bandwidth: float, runs: int) -> Iterator[Row]:
    """Time one case and its baselines."""
    timing = time_case(case.run, device, runs)
    spread = {"p20": timing.p20, "p80": timing.p80, "runs": timing.runs}
    yield _row(case.name, timing.median, "ms", case.goal_ms, "lower") | spread
    if case.bytes_moved is not None:
        share = case.bytes_moved / (timing.median * 1e-3) / bandwidth
        extra = {
            "bytes": case.bytes_moved,
            "bytes_per_second": case.bytes_moved / (timing.median * 1e-3),
            "bytes_per_element": case.bytes_moved / case.elements,
        }
        yield _row(f"{case.name}, copy bandwidth", share, "of copy bandwidth", case.bandwidth_goal, "higher") | extra
    for baseline in case.baselines:
        other = time_case(baseline.run, device, baseline.runs, 2)
        name = f"{case.name}, against {baseline.name}"
        yield _row(name, other.median / timing.median, "×", baseline.goal, "higher") | {
            "baseline": f"{other.median:.4g} ms"
        }
    for name, (value, unit, goal, better) in case.figures.items():
        yield _row(name, value, unit, goal, better)


def _row(name: str, value: float, unit: str, goal: float | None, better: str) -> Row:
    return {"name": name, "value": value, "unit": unit, "goal": goal, "better": better, "baseline": None}


def run(
    ops: list[str],
    device: str,
    size: int,
    runs: int = 20,
    recorded: torch.Tensor | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Check `ops` on `device`, then time them at sizes up to `size`.

    `recorded` is a model's flat gradient, for the wire format's ratio on something real.

    Returns the document `slipstream bench kernels --json` prints.

    Raises:
        RefusedToTime: see `check`.
    """
    load = os.getloadavg()[0]
    check(ops, device)
    bandwidth = copy_bandwidth(device, min(size, 10**9))
    rows = [_row("copy bandwidth", bandwidth / 1e9, "GB/s", None, "higher")]
    for op in ops:
        maker = partial(wire_cases, recorded=recorded) if op == "wire" else OPS[op]
        for case in maker(device, size):
            for row in rows_of(case, device, bandwidth, runs):
                rows.append(row | {"op": op})
                report(f"{row['name']}: {row['value']:.4g} {row['unit']}")
            gc.collect()
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return {
        "command": "bench kernels",
        "version": _version(),
        "date": date.today().isoformat(),
        "machine": machine(device),
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "rows": rows,
    }


def _version() -> str:
    try:
        return metadata.version("slipstream-rec")
    except metadata.PackageNotFoundError:
        return "source"
