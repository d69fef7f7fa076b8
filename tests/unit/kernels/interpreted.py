"""Send the CPU entry points to the Triton kernels: what a GPU would run, run by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

import kernels.apply
import kernels.compress
import kernels.decompress_accumulate
import kernels.delta
import kernels.delta.cpu
import kernels.topk_logits
import kernels.topk_logits.cpu
import kernels.wire
from kernels.apply.triton import apply_cuda, lazy_adamw_cuda
from kernels.compress.triton import compress_cuda
from kernels.decompress_accumulate.triton import decompress_accumulate_cuda
from kernels.delta.triton import checksum_cuda, diff_cuda, piece_table, scatter_cuda
from kernels.topk_logits.triton import topk_logits_cuda
from kernels.wire.triton import encode_cuda
from kernels.wire.triton_decode import decode_cuda


def route_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every numba entry by the Triton launch with the same meaning."""
    monkeypatch.setattr(kernels.compress, "_compress_cpu", compress_cuda)
    monkeypatch.setattr(kernels.decompress_accumulate, "_accumulate_cpu", decompress_accumulate_cuda)
    monkeypatch.setattr(kernels.apply, "_apply_cpu", apply_cuda)
    monkeypatch.setattr(kernels.apply, "_lazy_cpu", lazy_adamw_cuda)
    monkeypatch.setattr(kernels.delta, "_diff_cpu", diff_cuda)
    monkeypatch.setattr(kernels.delta.cpu, "scatter_into", scatter_cuda)
    monkeypatch.setattr(kernels.delta.cpu, "checksum_of", _checksum)
    monkeypatch.setattr(kernels.topk_logits.cpu, "topk_logits_cpu", topk_logits_cuda)
    monkeypatch.setattr(kernels.wire, "_encode_cpu", encode_cuda)
    monkeypatch.setattr(kernels.wire, "_decode_cpu", decode_cuda)


def _checksum(flat: list[torch.Tensor], bases: list[int]) -> int:
    return checksum_cuda(piece_table(flat, bases), flat[0])
