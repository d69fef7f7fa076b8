"""The wire format: the reference's bits, any payload there and back, and damage refused."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from kernels.compress import CompressionSpec, Payload, Quantizer, compress
from kernels.wire import WireError, decode, encode
from kernels.wire.layout import HEADER, Header, most_words
from kernels.wire.reference import encode_reference


def payload_of(size: int, kind: str, spec: CompressionSpec, device: str) -> Payload:
    generator = torch.Generator().manual_seed(size)
    gradient = torch.randn(size, generator=generator)
    if kind == "sparse":
        gradient *= torch.rand(size, generator=generator) < 0.004
    if kind == "rows":
        gradient *= (torch.arange(size) // 20) % 9 == 0
    if kind == "far":  # the longest gaps: an escape each
        gradient *= torch.isin(torch.arange(size) % spec.chunk, torch.tensor([0, 1, 2, 3, spec.chunk - 1]))
    return compress(gradient.to(device), torch.zeros(size, device=device), spec).payload


def assert_same(left: Payload, right: Payload) -> None:
    for number in range(5):
        assert torch.equal(left.section(number), right.section(number)), f"section {number}"


@pytest.mark.parametrize("kind", ["dense", "sparse", "rows", "far"])
@pytest.mark.parametrize("size", [1, 300, 5000])
def test_the_reference_s_bits_there_and_back(size: int, kind: str, quantizer: Quantizer, device: str) -> None:
    spec = CompressionSpec(chunk=512, slots=8, quantizer=quantizer)
    payload = payload_of(size, kind, spec, device)
    message = encode(payload)
    header = Header.unpack(bytes(message[: HEADER.size].cpu().numpy()))
    on_cpu = Payload(spec, size, payload.buffer.cpu())
    table, words = encode_reference(on_cpu)
    body = message[HEADER.size :].cpu()
    assert body[: header.table_bytes].view(torch.int16).tolist()[: header.groups] == table
    assert [word % 2**32 for word in body[header.table_bytes :].view(torch.int32).tolist()] == words
    assert_same(decode(message), payload)
    assert_same(decode(bytes(message.cpu().numpy())), on_cpu)


@given(data=st.data())
def test_any_payload_there_and_back(data: st.DataObject, device: str) -> None:
    spec = CompressionSpec(chunk=4096, slots=16, quantizer=data.draw(st.sampled_from(list(Quantizer))))
    chunks = data.draw(st.integers(1, 4))
    payload = Payload.empty(4096 * chunks, spec)
    payload.buffer.zero_()
    for chunk in range(chunks):
        places = sorted(data.draw(st.sets(st.integers(0, 4095), max_size=16)))
        payload.counts[chunk] = len(places)
        if places:
            payload.levels[chunk] = data.draw(st.integers(-(2**31), 2**31 - 1))
        for slot, place in enumerate(places):
            payload.section(1)[chunk, slot] = place & 255
            payload.section(2)[chunk, slot // 2] |= (place >> 8) << (4 * (slot % 2))
            bits = spec.quantizer.bits
            code = data.draw(st.integers(0, 2**bits - 1))
            payload.section(3)[chunk, slot * bits // 8] |= code << (slot * bits % 8)
    moved = Payload(spec, payload.num_elements, payload.buffer.to(device))
    assert_same(decode(encode(moved)), moved)


def test_an_empty_payload(device: str) -> None:
    payload = Payload.empty(0, CompressionSpec(), device)
    assert decode(encode(payload)).num_elements == 0


def test_two_hundred_times_smaller_than_fp32_on_a_dense_gradient(sizes, device: str) -> None:  # type: ignore[no-untyped-def]
    if sizes.slow:
        pytest.skip("a million elements are too many for the interpreter")
    message = encode(payload_of(2**21, "dense", CompressionSpec(), device))
    assert 4 * 2**21 / message.numel() >= 200


@pytest.mark.parametrize("at", [0, 4, 5, 9, 20, 27, 33, 60])
def test_a_flipped_bit_is_refused(at: int, small_spec: CompressionSpec, device: str) -> None:
    message = encode(payload_of(2000, "dense", small_spec, device))
    message[at] ^= 4
    with pytest.raises(WireError):
        decode(message)


def test_damage_is_named(small_spec: CompressionSpec, device: str) -> None:
    message = encode(payload_of(2000, "dense", small_spec, device))
    with pytest.raises(WireError, match="cut off or joined"):
        decode(message[:-4])
    with pytest.raises(WireError, match="no payload"):
        decode(b"x" * 64)
    with pytest.raises(WireError, match="has a header"):
        decode(b"")
    other = message.clone()
    other[4] = 2
    with pytest.raises(WireError, match="wire format 2: this reader knows 1"):
        decode(other)
    other = message.clone()
    other[-1] ^= 1
    with pytest.raises(WireError, match="damaged, ask for it again"):
        decode(other)
    with pytest.raises(WireError, match="out is for"):
        decode(message, Payload.empty(1, small_spec, device))


def test_words_are_refused_before_they_are_read(small_spec: CompressionSpec, device: str) -> None:
    """A message whose checksum is right but whose table is not: made by hand, as only a broken sender would."""
    from kernels.delta import cpu
    from kernels.wire.layout import header_sum

    message = encode(payload_of(2000, "dense", small_spec, "cpu")).clone()
    header = Header.unpack(bytes(message[: HEADER.size].numpy()))
    message[HEADER.size] += 1
    body = message[HEADER.size :].view(torch.int32)
    total = (cpu.checksum_of([body], [0]) + header_sum(header.pack())) % 2**64
    forged = Header(header.spec, header.num_elements, header.words, total).pack()
    message[: HEADER.size] = torch.frombuffer(bytearray(forged), dtype=torch.uint8)
    untouched = Payload.empty(2000, small_spec, device)
    before = untouched.buffer.clone()
    with pytest.raises(WireError, match="the table counts"):
        decode(message.to(device), untouched)
    assert torch.equal(untouched.buffer, before)


def test_a_damaged_message_leaves_the_payload_as_it_was(small_spec: CompressionSpec, device: str) -> None:
    message = encode(payload_of(2000, "dense", small_spec, device))
    message[-1] ^= 1
    untouched = Payload.empty(2000, small_spec, device)
    before = untouched.buffer.clone()
    with pytest.raises(WireError, match="damaged"):
        decode(message, untouched)
    assert torch.equal(untouched.buffer, before)


@pytest.mark.parametrize("stride", [1, 2, 3, 30, 63])
@pytest.mark.parametrize("slots", [8, 64])
def test_no_message_is_longer_than_the_bound(stride: int, slots: int, quantizer: Quantizer) -> None:
    """Gaps as uneven as a chunk allows: neighbours at its start, then strides, then one slot at its end."""
    spec = CompressionSpec(slots=slots, quantizer=quantizer)
    for close in range(0, slots, 7):
        gradient = torch.zeros(4096 * 8)
        places = list(range(close)) + [close + stride * (i + 1) for i in range(slots - close - 1)] + [4095]
        gradient.view(8, 4096)[:, sorted(set(places))] = 1.0
        message = encode(compress(gradient, torch.zeros(gradient.numel()), spec).payload)
        assert Header.unpack(bytes(message[: HEADER.size].numpy())).words <= most_words(spec, 8)
