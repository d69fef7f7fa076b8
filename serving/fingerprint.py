"""A checksum over tensors where they lie, on any device, cheap enough to take inside a swap.

Each tensor's bytes are read as 64-bit words w_0, w_1, … and summed twice modulo 2^64: Σ w_i and Σ (2i+1)·w_i. An odd
factor is invertible, so one changed word always changes the second sum, and so do two exchanged ones. It is not
cryptographic: the sha256 of a release's bytes is checked before, when it is read; this tells what memory holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

_CHUNK_WORDS = 1 << 17
"""1 MiB, which stays in a core's cache; a GPU wants few launches instead, 128 MiB each."""
_CHUNK_WORDS_GPU = 1 << 24


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest over names, dtypes, shapes and contents, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        plain, weighted = _sums(tensor)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {plain} {weighted}\n".encode())
    return digest.hexdigest()


def combine(digests: Iterable[str]) -> str:
    """One hex digest for all ranks', in rank order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _sums(tensor: Tensor) -> tuple[int, int]:
    with torch.no_grad():
        words = _words(tensor)
        size = _CHUNK_WORDS if words.device.type == "cpu" else _CHUNK_WORDS_GPU
        factors = torch.arange(min(size, len(words)), device=words.device).mul_(2).add_(1)
        plain = torch.zeros((), dtype=torch.int64, device=words.device)
        weighted = torch.zeros_like(plain)
        for start in range(0, len(words), size):
            chunk = words[start : start + size]
            total = chunk.sum()
            plain += total
            weighted += (chunk * factors[: len(chunk)]).sum() + 2 * start * total
    return int(plain), int(weighted)


def _words(tensor: Tensor) -> Tensor:
    """The tensor's bytes as `[N]` int64, zeros behind the last; a view where alignment allows."""
    octets = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if missing := -len(octets) % 8:
        octets = torch.nn.functional.pad(octets, (0, missing))
    elif octets.data_ptr() % 8 or octets.storage_offset() % 8:
        octets = octets.clone()
    return octets.view(torch.int64)
