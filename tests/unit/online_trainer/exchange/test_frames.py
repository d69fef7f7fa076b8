"""Frames: what goes in comes out; any damage is found."""

from __future__ import annotations

import pytest

from online_trainer.exchange import frames
from online_trainer.exchange.messages import Join, News, Sync

JOIN = Join(worker="a", incarnation=5, model="m", layout="0123")


def test_requests_and_replies_come_back_as_they_were() -> None:
    assert frames.decode_request(frames.encode(7, JOIN, [b"x" * 300, b""])) == (7, JOIN, [b"x" * 300, b""])
    news = News(orders=[], generation=3, partitions={0: 5}, batch_events=64, ordered=9)
    assert frames.decode_reply(frames.encode(8, news)) == (8, news, [])


@pytest.mark.parametrize("frame", [0, 1])
def test_every_flipped_bit_of_the_message_is_found(frame: int) -> None:
    sent = frames.encode(7, JOIN, [b"payload"])
    for at in range(len(sent[frame])):
        damaged = [bytearray(one) for one in sent]
        damaged[frame][at] ^= 4
        # One byte of the envelope is padding.
        if frame == 0 and at == 5:
            continue
        with pytest.raises(frames.FrameError):
            frames.decode_request([bytes(one) for one in damaged])


def test_a_damaged_payload_leaves_the_message_readable() -> None:
    sent = frames.encode(7, JOIN, [b"one", b"two"])
    with pytest.raises(frames.DamagedPayload) as caught:
        frames.decode_request([*sent[:3], b"twO"])
    assert caught.value.message == JOIN and caught.value.number == 7


def test_other_versions_and_strangers_are_named() -> None:
    sent = frames.encode(7, Sync(worker="a", incarnation=1, generation=0, index=0))
    with pytest.raises(frames.FrameError, match="frame format 2: this end knows 1"):
        frames.decode_request([sent[0][:4] + b"\2" + sent[0][5:], sent[1]])
    with pytest.raises(frames.FrameError, match="no message of ours"):
        frames.decode_request([b"GET / HTTP/1.1 and more of it", b""])
    with pytest.raises(frames.FrameError, match="not a message this end knows"):
        frames.decode_reply(sent)


def test_bytes_count_the_framing() -> None:
    assert frames.num_bytes([b"a" * 255, b"b" * 256]) == 255 + 2 + 256 + 9
