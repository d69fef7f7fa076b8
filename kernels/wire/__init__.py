"""An entropy-coded, versioned, checksummed wire format for a payload. `layout.py` has the format."""

from __future__ import annotations

import torch

from kernels.checks import require
from kernels.payload import Payload
from kernels.wire.layout import GROUP, HEADER, VERSION, Header, WireError, check_sums, header_sum


def encode(payload: Payload) -> torch.Tensor:
    """`payload` as wire bytes: uint8 `[m]` on the payload's device.

    On a GPU it waits for the device once, for the length, and the bytes are the front of a buffer that holds the
    longest message of such a payload (1.5 times one of a dense gradient).
    """
    if payload.buffer.device.type == "cuda":
        from kernels.wire.triton import encode_cuda

        return encode_cuda(payload)
    return _encode_cpu(payload)


def _encode_cpu(payload: Payload) -> torch.Tensor:
    sizes = _measure(payload)
    starts = torch.zeros(sizes.numel() + 1, dtype=torch.int64)
    torch.cumsum(sizes, 0, out=starts[1:])
    total = int(starts[-1])
    header = Header(payload.spec, payload.num_elements, total, 0)
    message = torch.empty(header.size, dtype=torch.uint8)
    body = message[HEADER.size :]
    table = body[: header.table_bytes].view(torch.int16)
    table[-1:] = 0
    table[: sizes.numel()] = sizes.to(torch.int16)
    _write(payload, starts, body[header.table_bytes :].view(torch.int32))
    checksum = (_body_sum(body) + header_sum(header.pack())) % 2**64
    packed = Header(payload.spec, payload.num_elements, total, checksum).pack()
    message[: HEADER.size] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
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
    payload = out or Payload.empty(header.num_elements, header.spec, message.device)
    if payload.spec != header.spec or payload.num_elements != header.num_elements:
        raise WireError(f"out is for {payload.num_elements} elements of {payload.spec}, the message has {header}")
    if message.device.type == "cuda":
        from kernels.wire.triton_decode import decode_cuda

        decode_cuda(message, header, packed, payload)
    else:
        _decode_cpu(message, header, packed, payload)
    return payload


def _decode_cpu(message: torch.Tensor, header: Header, packed: bytes, payload: Payload) -> None:
    body = message[HEADER.size :]
    sizes = body[: header.table_bytes].view(torch.int16)[: header.groups].to(torch.int64) & 0xFFFF
    starts = torch.zeros(header.groups + 1, dtype=torch.int64)
    torch.cumsum(sizes, 0, out=starts[1:])
    check_sums(header, (_body_sum(body) + header_sum(packed)) % 2**64, int(starts[-1]))
    _read(body[header.table_bytes :].view(torch.int32), starts, payload)


def _measure(payload: Payload) -> torch.Tensor:
    from kernels.wire import cpu

    sizes = torch.empty(-(-payload.num_chunks // GROUP), dtype=torch.int32)
    spec, low, high = payload.spec, payload.section(1).numpy(), payload.section(2).numpy()
    cpu.measure(low, high, payload.counts.numpy(), spec.slots, spec.quantizer.bits, sizes.numpy())
    return sizes


def _write(payload: Payload, starts: torch.Tensor, words: torch.Tensor) -> None:
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


def _read(words: torch.Tensor, starts: torch.Tensor, payload: Payload) -> None:
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
    from kernels.delta import cpu

    return cpu.checksum_of([body.view(torch.int32)], [0])


__all__ = ["VERSION", "Header", "WireError", "decode", "encode"]
