"""What follows a collective, on a thread of Python's own.

A callback of a gloo work's future runs on gloo's thread, and is destroyed there, with the interpreter's lock; so is a
tensor that Python lets go of before gloo does. When that thread is late, say on a busy machine, and the interpreter has
begun to end, taking the lock ends the thread in the middle of a destructor, and with it the process: "terminate called
without an active exception" (at the end of a short script: once in some thirty runs on a loaded machine). Here gloo's
threads never touch a Python object.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

Tensors = tuple[Tensor, ...]
_DRAIN_SECONDS = 5.0
"""At the interpreter's end; longer only where another rank has left a collective unfinished."""
_LOOK_SECONDS = 0.02
"""Between two looks whether gloo has let go of a tensor, when nothing else is to be done."""


def after(work: dist.Work, tensors: Tensors, make: Callable[[], Tensor]) -> torch.futures.Future[Tensor]:
    """A future of what `make` returns once `work` is done; of the work's error, should it fail.

    Args:
        tensors: all that the collective was given, on one device. They live until it lets go of them. A GPU's futures
            carry its streams and are done as soon as the work is queued: there `make` runs at once, in the caller.
    """
    if tensors[0].device.type != "cpu":

        def follow(future: torch.futures.Future[Tensor]) -> Tensor:
            future.wait()
            return make()

        return work.get_future().then(follow)
    made: torch.futures.Future[Tensor] = torch.futures.Future()
    _follower().follow(work, tensors, make, made)
    return made


class _Follower:
    """One daemon thread, first in, first out."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[tuple[dist.Work, Tensors, Callable[[], Tensor], torch.futures.Future[Tensor]]]
        self._tasks = queue.Queue()
        self._given: deque[Tensors] = deque()
        """What gloo may still hold."""
        threading.Thread(target=self._run, name="exchange-follower", daemon=True).start()
        atexit.register(self._drain)

    def follow(
        self, work: dist.Work, tensors: Tensors, make: Callable[[], Tensor], made: torch.futures.Future[Tensor]
    ) -> None:
        self._tasks.put((work, tensors, make, made))

    def _run(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=_LOOK_SECONDS if self._given else None)
            except queue.Empty:
                self._let_go()
                continue
            self._given.append(task[1])
            self._one(*task)
            del task
            self._let_go()
            self._tasks.task_done()

    @staticmethod
    def _one(work: dist.Work, _: Tensors, make: Callable[[], Tensor], made: torch.futures.Future[Tensor]) -> None:
        try:
            work.wait()
            result = make()
        except Exception as error:  # noqa: BLE001 the future's reader gets it
            made.set_exception(error)  # type: ignore[arg-type]  # its stub says T
        else:
            made.set_result(result)

    def _let_go(self) -> None:
        """Of what nobody but Python holds any more."""
        while self._given and all(tensor._use_count() <= 1 for tensor in self._given[0]):  # type: ignore[attr-defined]
            self._given.popleft()

    def _drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        while (self._tasks.unfinished_tasks or self._given) and time.monotonic() < deadline:
            time.sleep(0.01)


@cache
def _follower() -> _Follower:
    return _Follower()
