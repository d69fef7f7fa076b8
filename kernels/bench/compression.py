"""Cases of `compress`, `decompress_accumulate` and `wire`, and the eager chain they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from kernels.bench.case import Baseline, Case, Figure
from kernels.bench.timing import time_case
from kernels.compress import CompressionSpec, Payload, compress
from kernels.decompress_accumulate import decompress_accumulate
from kernels.wire import decode, encode

SPEC = CompressionSpec()
PAYLOAD_BYTES = sum(SPEC.section_bytes()) / SPEC.chunk


def eager_chain(gradient: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Top 64 of each 4096 with error feedback in plain PyTorch: add, abs, topk, gather, sign and mean, scatter."""
    total = (gradient + residual).view(-1, SPEC.chunk)
    index = total.abs().topk(SPEC.slots, dim=1, sorted=False).indices
    values = total.gather(1, index)
    sent = values.sign() * values.abs().mean(1, keepdim=True)
    residual.copy_(total.scatter(1, index, values - sent).view(-1))
    return index, sent


def compress_cases(device: str, size: int) -> Iterator[Case]:
    """One case a size; the eager chain and its compiled form at the largest."""
    for elements in sizes(size):
        gradient = torch.empty(elements, dtype=torch.bfloat16, device=device).normal_()
        residual = torch.empty(elements, device=device).normal_().mul_(0.1)
        out = Payload.empty(elements, SPEC, device)
        whole = elements // SPEC.chunk * SPEC.chunk
        baselines: list[Baseline] = []
        if elements == size:
            run = _bound(eager_chain, gradient[:whole], torch.zeros(whole, device=device))
            baselines.append(Baseline("eager chain", run, 7 if device == "cuda" else 10, 20 if device == "cuda" else 5))
        if elements == size and device == "cuda":
            compiled = _bound(torch.compile(eager_chain), gradient[:whole], torch.zeros(whole, device=device))
            baselines.append(Baseline("torch.compile of it", compiled, 4))
        yield Case(
            f"compress {elements:.0e}",
            lambda: compress(gradient, residual, out=out),  # noqa: B023
            (10 + PAYLOAD_BYTES) * elements,
            elements,
            0.85 if device == "cuda" else 0.5,
            baselines=tuple(baselines),
        )


def decompress_cases(device: str, size: int) -> Iterator[Case]:
    """Eight peers, overwriting and accumulating."""
    for elements in sizes(size):
        payloads = [random_payload(elements, device) for _ in range(8)]
        out = torch.zeros(elements, device=device)
        for accumulate in (False, True):
            baselines: tuple[Baseline, ...] = ()
            if elements == size:
                run = _bound(eager_decompress, payloads, out, accumulate)
                baselines = (Baseline("eager", run, 4, 20 if device == "cuda" else 3),)
            yield Case(
                f"decompress_accumulate W=8 {'accumulate' if accumulate else 'overwrite'} {elements:.0e}",
                lambda: decompress_accumulate(payloads, out, accumulate=accumulate),  # noqa: B023
                ((8 if accumulate else 4) + 8 * PAYLOAD_BYTES) * elements,
                elements,
                0.85 if device == "cuda" else 0.5,
                baselines=baselines,
            )


def eager_decompress(payloads: list[Payload], out: torch.Tensor, accumulate: bool = False) -> None:
    """Decode with whole-tensor operations and `index_add_`: what a payload costs without a kernel."""
    if not accumulate:
        out.zero_()
    for payload in payloads:
        slots = torch.arange(SPEC.slots, device=out.device)
        low, high, codes = (payload.section(number) for number in (1, 2, 3))
        index = low.int() | ((high.repeat_interleave(2, 1).int() >> (slots % 2 * 4)) & 15) << 8
        code = (codes.repeat_interleave(4, 1).int() >> (slots % 4 * 2)) & 3
        levels = payload.levels.view(torch.bfloat16).view(-1, 2).float()
        value = levels.gather(1, (code >> 1).long()) * (1 - 2 * (code & 1)).float()
        value.masked_fill_(slots >= payload.counts[:, None], 0)
        flat = index + torch.arange(payload.num_chunks, device=out.device)[:, None] * SPEC.chunk
        out.index_add_(0, flat.view(-1).clamp_max_(out.numel() - 1), value.view(-1))


def wire_cases(device: str, size: int, recorded: torch.Tensor | None = None) -> Iterator[Case]:
    """Encode and decode of a dense gradient's payload, and the ratio on it and on a `recorded` one."""
    gradient = torch.empty(size, dtype=torch.bfloat16, device=device).normal_()
    residual = torch.zeros(size, device=device)
    payload = compress(gradient, residual).payload
    message, out = encode(payload), Payload.empty(size, SPEC, device)
    figures: dict[str, Figure] = {
        "wire ratio, normal gradient": (4 * size / message.numel(), "× against fp32", 200.0, "higher")
    }
    if recorded is not None:
        mine = recorded.to(device)
        small = encode(compress(mine, torch.zeros(mine.numel(), device=device)).payload)
        figures["wire ratio, recorded gradient"] = (4 * mine.numel() / small.numel(), "× against fp32", 200.0, "higher")
    # Separately, since back to back the second hides in the first's waits.
    alone = [time_case(run, device).median for run in (lambda: encode(payload), lambda: decode(message, out))]
    share = sum(alone) / time_case(lambda: compress(gradient, residual, out=out), device).median
    figures["wire encode + decode against compress"] = (share, "of its time", 0.25, "lower")
    yield Case(f"wire encode {size:.0e}", lambda: encode(payload), figures=figures)
    yield Case(f"wire decode {size:.0e}", lambda: decode(message, out))


def sizes(size: int) -> list[int]:
    """`size` and the powers of ten below it from 10⁷ on."""
    return [size] if size <= 10**7 else [*sizes(size // 10), size]


def random_payload(elements: int, device: str) -> Payload:
    """The payload of a normal gradient."""
    gradient = torch.empty(elements, dtype=torch.bfloat16, device=device).normal_()
    return compress(gradient, torch.zeros(elements, device=device)).payload


def _bound(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)
