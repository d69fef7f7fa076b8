"""What follows a collective, on a thread of Python's own.

A callback of a gloo work's future runs on gloo's thread, and is destroyed there, with the interpreter's lock. When that
thread is late, say on a busy machine, and the interpreter has begun to end, taking the lock ends the thread in the
middle of a destructor, and with it the process: "terminate called without an active exception" (seen once, on a
loaded machine, at the end of a short script). Here gloo's threads never touch a Python object.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

_DRAIN_SECONDS = 5.0
"""At the interpreter's end; longer only where another rank has left a collective unfinished."""


def after(work: dist.Work, device: torch.device, make: Callable[[], Tensor]) -> torch.futures.Future[Tensor]:
    """A future of what `make` returns once `work` is done; of the work's error, should it fail.

    Args:
        device: of the collective's tensors. A GPU's futures carry its streams and are done as soon as the work is
            queued: there `make` runs at once, in the caller.
    """
    if device.type != "cpu":

        def follow(future: torch.futures.Future[Tensor]) -> Tensor:
            future.wait()
            return make()

        return work.get_future().then(follow)
    made: torch.futures.Future[Tensor] = torch.futures.Future()
    _follower().follow(work, make, made)
    return made


class _Follower:
    """One daemon thread, first in, first out."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[tuple[dist.Work, Callable[[], Tensor], torch.futures.Future[Tensor]]] = queue.Queue()
        threading.Thread(target=self._run, name="exchange-follower", daemon=True).start()
        atexit.register(self._drain)

    def follow(self, work: dist.Work, make: Callable[[], Tensor], made: torch.futures.Future[Tensor]) -> None:
        self._tasks.put((work, make, made))

    def _run(self) -> None:
        while True:
            self._one(*self._tasks.get())
            self._tasks.task_done()

    @staticmethod
    def _one(work: dist.Work, make: Callable[[], Tensor], made: torch.futures.Future[Tensor]) -> None:
        try:
            work.wait()
            result = make()
        except Exception as error:  # noqa: BLE001 the future's reader gets it
            made.set_exception(error)  # type: ignore[arg-type]  # its stub says T
        else:
            made.set_result(result)

    def _drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._tasks.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)


@cache
def _follower() -> _Follower:
    return _Follower()
