"""An entropy-coded, versioned, checksummed wire format for a payload. `layout.py` has the format."""

from __future__ import annotations

import torch

from kernels.checks import require
from kernels.payload import Payload
from kernels.wire.layout import GROUP, HEADER, VERSION, Header, WireError, header_sum


def encode(payload: Payload) -> torch.Tensor:
    """`payload` as wire bytes: uint8 `[m]` on the payload's device.

    On a GPU it waits for the device twice: for the size, and for the checksum.
    """
    sizes = _measure(payload)
    starts = torch.zeros(sizes.numel() + 1, dtype=torch.int64, device=sizes.device)
    torch.cumsum(sizes, 0, out=starts[1:])
    total = int(starts[-1])
    header = Header(payload.spec, payload.num_elements, total, 0)
    message = torch.empty(header.size, dtype=torch.uint8, device=sizes.device)
    body = message[HEADER.size :]
    table = body[: header.table_bytes].view(torch.int16)
    table[-1:] = 0
    table[: sizes.numel()] = sizes.to(torch.int16)
    words = body[header.table_bytes :].view(torch.int32)
    if message.device.type == "cuda":
        from kernels.wire.triton import write_cuda

        write_cuda(payload, starts, words)
    else:
        _write_cpu(payload, starts, words)
    packed = header.pack()
    checksum = (_body_sum(body) + header_sum(packed)) % 2**64
    packed = Header(payload.spec, payload.num_elements, total, checksum).pack()
    message[: HEADER.size] = torch.frombuffer(bytearray(packed), dtype=torch.uint8).to(message.device)
    return message


def decode(message: torch.Tensor | bytes, out: Payload | None = None) -> Payload:
    """The payload of wire bytes, on their device.

    Args:
        message: as `encode` wrote it; `bytes` give a CPU payload.
        out: a payload of the same spec and size to write into.

    Raises:
        WireError: another format or version, a wrong length, or a checksum that differs: nothing was decoded.
    """
    if isinstance(message, bytes):
        if not message:
            raise WireError("no bytes: a payload has a header")
        message = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    require(message, "message", (torch.uint8,))
    packed = bytes(message[: HEADER.size].cpu().numpy())
    header = Header.unpack(packed)
    if message.numel() != header.size:
        raise WireError(f"{message.numel()} bytes where the header says {header.size}: cut off or joined?")
    if message.data_ptr() % 4:
        message = message.clone()
    body = message[HEADER.size :]
    found = (_body_sum(body) + header_sum(packed)) % 2**64
    if found != header.checksum:
        raise WireError(f"checksum {found:016x}, the header says {header.checksum:016x}: damaged, ask for it again")
    sizes = body[: header.table_bytes].view(torch.int16)[: header.groups].to(torch.int64) & 0xFFFF
    starts = torch.zeros(header.groups + 1, dtype=torch.int64, device=message.device)
    torch.cumsum(sizes, 0, out=starts[1:])
    payload = out or Payload.empty(header.num_elements, header.spec, message.device)
    if payload.spec != header.spec or payload.num_elements != header.num_elements:
        raise WireError(f"out is for {payload.num_elements} elements of {payload.spec}, the message has {header}")
    words = body[header.table_bytes :].view(torch.int32)
    if message.device.type == "cuda":
        from kernels.wire.triton import read_cuda

        read_cuda(words, starts, payload)
    else:
        if int(starts[-1]) != header.words:
            raise WireError(f"the table counts {int(starts[-1])} words, the header {header.words}")
        _read_cpu(words, starts, payload)
    return payload


def _measure(payload: Payload) -> torch.Tensor:
    if payload.buffer.device.type == "cuda":
        from kernels.wire.triton import measure_cuda

        return measure_cuda(payload)
    return _measure_cpu(payload)


def _measure_cpu(payload: Payload) -> torch.Tensor:
    from kernels.wire import cpu

    sizes = torch.empty(-(-payload.num_chunks // GROUP), dtype=torch.int32)
    spec, low, high = payload.spec, payload.section(1).numpy(), payload.section(2).numpy()
    cpu.measure(low, high, payload.counts.numpy(), spec.slots, spec.quantizer.bits, sizes.numpy())
    return sizes


def _write_cpu(payload: Payload, starts: torch.Tensor, words: torch.Tensor) -> None:
    from kernels.wire import cpu

    cpu.write(
        payload.levels.numpy(),
        payload.section(1).numpy(),
        payload.section(2).numpy(),
        payload.section(3).numpy(),
        payload.counts.numpy(),
        payload.spec.slots,
        payload.spec.quantizer.bits,
        starts[:-1].numpy(),
        words.numpy().view("uint32"),
    )


def _read_cpu(words: torch.Tensor, starts: torch.Tensor, payload: Payload) -> None:
    from kernels.wire import cpu

    cpu.read(
        words.numpy().view("uint32"),
        starts.numpy(),
        payload.levels.numpy(),
        payload.section(1).numpy(),
        payload.section(2).numpy(),
        payload.section(3).numpy(),
        payload.counts.numpy(),
        payload.spec.slots,
        payload.spec.quantizer.bits,
    )


def _body_sum(body: torch.Tensor) -> int:
    words = body.view(torch.int32)
    if body.device.type == "cuda":
        from kernels.delta.triton import flat_checksum_cuda

        return flat_checksum_cuda(words)
    from kernels.delta import cpu

    return cpu.checksum_of([words], [0])


__all__ = ["VERSION", "Header", "WireError", "decode", "encode"]
