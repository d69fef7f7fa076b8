"""The processes of a bench: one a rank, one thread each, on a loopback that may be capped."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def run_ranks(module: str, folder: str, bytes_per_second: float) -> None:
    """Run `python -m module folder`, which ends in `spawn`, on a loopback of that rate; 0 for the plain one.

    Raises:
        RuntimeError: a rank failed, or there can be no network namespace here.
    """
    command = [sys.executable, "-m", module, folder]
    if bytes_per_second:
        command = [*capped(bytes_per_second), *command]
    if subprocess.run(command, env=os.environ | one_thread(), check=False).returncode:
        raise RuntimeError("a rank failed, or a network namespace can't be made here; see above")


def spawn(run: Callable[[int, str, Any], None], folder: str, task: object, workers: int) -> int:
    """Run `run(rank, folder, task)` in as many processes side by side; the exit code, 1 if any failed."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=run, args=(rank, folder, task)) for rank in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))


def one_thread() -> dict[str, str]:
    """The environment of a process whose libraries start no threads.

    torch and numba share OpenMP's pool, and numba sets its size: two ranks with two threads each on two busy cores wait
    for one another for 70 ms in a call that takes 0.3.
    """
    return {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def capped(bytes_per_second: float) -> list[str]:
    """What runs a command on a loopback of that rate."""
    # One packet of the loopback's 64 KiB must fit; more would let small exchanges pass uncapped.
    rate, burst = round(8 * bytes_per_second), max(70_000, round(bytes_per_second / 4000))
    shape = f"tc qdisc add dev lo root tbf rate {rate}bit burst {burst} latency 10s"
    return ["unshare", "--map-root-user", "--net", "sh", "-c", f'ip link set lo up && {shape} && exec "$0" "$@"']
