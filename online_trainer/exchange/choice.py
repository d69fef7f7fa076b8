"""Whether compressing pays on a link: what one exchange costs either way, from measured rates."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
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


def choose(rule: Rule, num_elements: int, link_bytes_per_second: float, workers: int) -> Rule:
    """`rule` with the encoding that is the faster one on this machine and link."""
    compressed = msgspec.structs.replace(rule, compressed=True)
    dense = msgspec.structs.replace(rule, compressed=False)
    crossover = crossover_bytes_per_second(measure(dense, num_elements), measure(compressed, num_elements), workers)
    return compressed if link_bytes_per_second < crossover else dense
