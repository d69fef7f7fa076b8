"""The bytes between a worker and an owner: an envelope with version and checksum, a msgpack message, payload frames."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from online_trainer.exchange.messages import Reply, Request

MAGIC, VERSION = b"SLPX", 1
_ENVELOPE = struct.Struct("<4sBxHIQ")
T = TypeVar("T", Request, Reply)
Frames = list[bytes]

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class FrameError(ValueError):
    """Bytes that are not a message of ours: another version, cut off, damaged, or not what was asked for."""


class DamagedPayload(FrameError):
    """The message is whole, a payload frame behind it is not."""

    def __init__(self, number: int, message: Request | Reply) -> None:
        super().__init__("a payload frame's checksum differs: damaged on the way")
        self.number = number
        self.message = message


def encode(number: int, message: Request | Reply, payloads: Sequence[bytes] = ()) -> Frames:
    """Frames to send. `number` comes back with the reply."""
    body = _encoder.encode(message)
    sums = b"".join(struct.pack("<I", zlib.crc32(payload)) for payload in payloads)
    head = _ENVELOPE.pack(MAGIC, VERSION, len(payloads), 0, number) + sums
    checksum = zlib.crc32(body, zlib.crc32(head))
    head = _ENVELOPE.pack(MAGIC, VERSION, len(payloads), checksum, number) + sums
    return [head, body, *payloads]


def decode_request(frames: Sequence[bytes]) -> tuple[int, Request, Frames]:
    """Number, message and payloads. Raises FrameError; DamagedPayload when the message itself can be trusted."""
    number, body, payloads, damaged = _open(frames)
    message = _read(_requests, body)
    if damaged:
        raise DamagedPayload(number, message)
    return number, message, payloads


def decode_reply(frames: Sequence[bytes]) -> tuple[int, Reply, Frames]:
    """Like `decode_request`, for replies."""
    number, body, payloads, damaged = _open(frames)
    message = _read(_replies, body)
    if damaged:
        raise DamagedPayload(number, message)
    return number, message, payloads


def num_bytes(frames: Sequence[bytes]) -> int:
    """Bytes of one message on the wire, ZMTP 3 framing included: 2 a frame up to 255 bytes, 9 above."""
    return sum(len(frame) + (2 if len(frame) <= 255 else 9) for frame in frames)


def _open(frames: Sequence[bytes]) -> tuple[int, bytes, Frames, bool]:
    if len(frames) < 2 or len(frames[0]) < _ENVELOPE.size:
        raise FrameError("no envelope: these frames are no message of ours")
    head, body, payloads = frames[0], frames[1], list(frames[2:])
    magic, version, count, checksum, number = _ENVELOPE.unpack_from(head)
    if magic != MAGIC:
        raise FrameError(f"starts with {magic!r}, not {MAGIC!r}: these frames are no message of ours")
    if version != VERSION:
        raise FrameError(f"frame format {version}: this end knows {VERSION}; update the older end")
    sums = head[_ENVELOPE.size :]
    if count != len(payloads) or len(sums) != 4 * count:
        raise FrameError(f"{len(payloads)} payload frames where {count} are announced: cut off?")
    plain = _ENVELOPE.pack(magic, version, count, 0, number) + sums
    if zlib.crc32(body, zlib.crc32(plain)) != checksum:
        raise FrameError("the message's checksum differs: damaged on the way")
    expected = struct.unpack(f"<{count}I", sums)
    damaged = any(zlib.crc32(payload) != one for payload, one in zip(payloads, expected, strict=True))
    return number, body, payloads, damaged


def _read(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message this end knows: {error}") from error
