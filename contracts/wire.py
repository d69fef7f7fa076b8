"""JSON on the wire: one encoder, one way to fail.

Messages are msgspec structs encoded as UTF-8 JSON. `decode` turns every way in which bytes can be unreadable
into `UnreadableMessage`, so that a consumer has one exception to send to the dead-letter topic.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


class UnreadableMessage(ValueError):
    """Bytes that are not a message of the type asked for; its text says where and why."""


def encode(message: msgspec.Struct) -> bytes:
    """`message` as UTF-8 JSON; fields that hold their default are left out where the struct says so."""
    return _encoder.encode(message)


def decode(data: bytes, message_type: type[T]) -> T:
    """`data` as a `message_type`.

    Raises:
        UnreadableMessage: not JSON, a field missing or of another type, or an unknown schema version.
    """
    decoder = _decoders.get(message_type)
    if decoder is None:
        decoder = _decoders[message_type] = msgspec.json.Decoder(message_type)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableMessage(f"not a {message_type.__name__}: {error}") from error
