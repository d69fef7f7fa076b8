"""Whether compressing pays on a link: what an exchange costs either way, foretold from rates or measured as it goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from online_trainer.exchange import payloads
from online_trainer.exchange.messages import Rule


@dataclass(frozen=True)
class Costs:
    """Of one encoding, measured on this machine.

    Attributes:
        encode_seconds, decode_seconds: of one update.
        num_bytes: of its payload.
    """

    encode_seconds: float
    decode_seconds: float
    num_bytes: int

    def exchange_seconds(self, link_bytes_per_second: float, workers: int) -> float:
        """A push of one's own and a pull of the others', every payload decoded here; infinite rate for no link."""
        moved = self.num_bytes * workers / link_bytes_per_second
        return self.encode_seconds + moved + workers * self.decode_seconds


def measure(rule: Rule, num_elements: int, runs: int = 5) -> Costs:
    """Encode and decode a random update of `num_elements` a few times; the fastest counts."""
    update = torch.randn(num_elements, generator=torch.Generator().manual_seed(0))
    residual, out = torch.zeros(num_elements), torch.zeros(num_elements)
    encoding, decoding = [], []
    encoded = payloads.encode(update, residual, rule)
    for _ in range(runs):
        started = time.perf_counter()
        encoded = payloads.encode(update, residual, rule)
        encoding.append(time.perf_counter() - started)
        started = time.perf_counter()
        payloads.add(encoded.encoding, encoded.data, 1.0, out)
        decoding.append(time.perf_counter() - started)
    return Costs(min(encoding), min(decoding), len(encoded.data))


def crossover_bytes_per_second(dense: Costs, compressed: Costs, workers: int) -> float:
    """The link rate above which dense is the faster one; infinite where compressing always is, 0 where never."""
    saved_bytes = workers * (dense.num_bytes - compressed.num_bytes)
    extra = (compressed.encode_seconds - dense.encode_seconds) + workers * (
        compressed.decode_seconds - dense.decode_seconds
    )
    if saved_bytes <= 0:
        return 0.0
    return saved_bytes / extra if extra > 0 else float("inf")


def lower_quartile(seconds: Iterable[float]) -> float:
    """NaN of none."""
    found = sorted(seconds)
    return found[(len(found) - 1) // 4] if found else float("nan")


class EncodingChoice:
    """Which encoding a group uses: the one whose pushes were measured to be the faster, group-wide.

    All workers try one encoding, then the other, `PASSES` times; the smaller lower quartile wins. Every `AGAIN` pushes
    the loser has another try, and takes over when it is faster by more than `MARGIN`. For the coordinator: its word
    reaches a worker with each answer, so all of them follow within one push.

    A quartile, because on busy cores up to half of the exchanges wait 3 to 5 ms for a processor, whatever they encode;
    passes, because such times last for ten exchanges and more (benchmarks/2026-11-24-exchange-crossover.md).

    Args:
        compressed: what is tried first.
    """

    TRIES = 8
    """Pushes of each worker that a try lasts; the first one of a try does not count: buffers and caches are cold."""
    PASSES = 3
    AGAIN = 1000
    MARGIN = 0.1

    def __init__(self, compressed: bool) -> None:
        self.compressed = compressed
        """What pushes are to be encoded as now."""
        self.settled: bool | None = None
        """The choice; None while the first tries last."""
        self._costs: dict[bool, deque[float]] = {True: deque(maxlen=64), False: deque(maxlen=64)}
        self._tried: dict[str, int] = {}
        self._since = 0
        self._ended = 0
        """Tries that have ended."""

    @property
    def listening(self) -> bool:
        """Whether what the next pushes take counts: during tries, and shortly before one."""
        return self.settled is None or self.compressed != self.settled or self._since >= self.AGAIN - self.TRIES

    def record(self, worker: str, compressed: bool, seconds: float | None, workers: int) -> bool:
        """What a push took; whether `settled` changed.

        Args:
            seconds: None: not known, which is enough while nobody is `listening`.
            workers: that take part now.
        """
        if compressed != self.compressed:
            return False
        self._tried[worker] = self._tried.get(worker, 0) + 1
        if self._tried[worker] > 1 and seconds is not None:
            self._costs[compressed].append(seconds)
        if self.settled is not None and compressed == self.settled:
            self._since += 1
            if self._since >= self.AGAIN * workers:
                self._try(not compressed)
            return False
        whole = sum(min(count, self.TRIES) for count in self._tried.values()) >= self.TRIES * workers
        # A worker with nothing to train does not push.
        if not whole and self._tried[worker] < 4 * self.TRIES:
            return False
        return self._tried_enough()

    def seconds(self, compressed: bool) -> float:
        """Lower quartile of an encoding's last pushes; NaN before the first."""
        return lower_quartile(self._costs[compressed])

    def _tried_enough(self) -> bool:
        other = not self.compressed
        self._ended += 1
        if self.settled is None and (self._ended < 2 * self.PASSES or not self._costs[other]):
            self._try(other)
            return False
        before = self.settled
        if before is None:
            self.settled = self.seconds(True) < self.seconds(False)
        elif self.seconds(not before) < (1 - self.MARGIN) * self.seconds(before):
            self.settled = not before
        self._try(self.settled if self.settled is not None else self.compressed)
        return self.settled != before

    def _try(self, compressed: bool) -> None:
        self.compressed = compressed
        self._tried, self._since = {}, 0
        if self.settled is not None and compressed != self.settled:
            # Measured long ago: the link may be another one by now.
            self._costs[compressed].clear()
