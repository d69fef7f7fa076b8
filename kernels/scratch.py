"""A chunk-sized scratch for a Triton program, in shared memory, with single words read and written by address.

Triton has no scatter into shared memory. One line of PTX declares a static array there (it lies beside the dynamic
shared memory that Triton manages itself), and loads and stores by address are one instruction each. A 4-byte store
into the second-level cache is a partial write of a 32-byte sector; here it is a bank access.

The interpreter runs no PTX, so with SHARED false the scratch is a piece of `spare` in memory: the same algorithm on
the same calls. Words are int32; barriers (`tl.debug_barrier`) are the caller's. A tensor smaller than the program's
threads is held several times over: a read, an addition and a write back of one word need a barrier in between.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SCRATCH_WORDS = 4096 + 128
"""The largest chunk, and one word for each of the most slots: 16.5 KiB."""

_DECLARE = tl.constexpr(f"{{ .shared .align 16 .b8 chunk_scratch[{4 * SCRATCH_WORDS}]; mov.u32 $0, chunk_scratch; }}")
_STORE = tl.constexpr("{ .reg .pred p; setp.ne.s32 p, $3, 0; @p st.shared.b32 [$1], $2; mov.b32 $0, 0; }")
_LOAD = tl.constexpr("{ .reg .pred p; setp.ne.s32 p, $2, 0; mov.b32 $0, 0; @p ld.shared.b32 $0, [$1]; }")
_STORE_FOUR = tl.constexpr("st.shared.v4.b32 [$1], {$2, $3, $4, $5}; mov.b32 $0, 0;")
_LOAD_FOUR = tl.constexpr("ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];")


@triton.jit
def scratch_of(spare, SHARED: tl.constexpr):
    """This program's scratch: call it once a kernel, and outside loops. `spare`: see `spare_words`."""
    if SHARED:
        return tl.inline_asm_elementwise(_DECLARE, "=r", [], tl.int32, is_pure=False, pack=1)
    else:
        return spare + tl.program_id(0) * 4224


@triton.jit
def put(scratch, index, word, mask, SHARED: tl.constexpr):
    """scratch[index] = word (int32 tensors) where `mask`."""
    if SHARED:
        tl.inline_asm_elementwise(
            _STORE, "=r,r,r,r", [scratch + index * 4, word, mask.to(tl.int32)], tl.int32, is_pure=False, pack=1
        )
    else:
        tl.store(scratch + index, word, mask=mask)


@triton.jit
def get(scratch, index, mask, SHARED: tl.constexpr):
    """scratch[index] (int32), 0 where not `mask`."""
    if SHARED:
        return tl.inline_asm_elementwise(
            _LOAD, "=r,r,r", [scratch + index * 4, mask.to(tl.int32)], tl.int32, is_pure=False, pack=1
        )
    else:
        return tl.load(scratch + index, mask=mask, other=0)


@triton.jit
def put_all(scratch, words, SIZE: tl.constexpr, SHARED: tl.constexpr):
    """The first SIZE words of the scratch from `words` int32 [SIZE]; 16 bytes a store."""
    even, odd = tl.split(tl.reshape(words, [SIZE // 4, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    at = tl.arange(0, SIZE // 4) * 4
    if SHARED:
        tl.inline_asm_elementwise(
            _STORE_FOUR,
            "=r,r,r,r,r,r",
            [scratch + at * 4, first, second, third, fourth],
            tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        tl.store(scratch + at, first)
        tl.store(scratch + at + 1, second)
        tl.store(scratch + at + 2, third)
        tl.store(scratch + at + 3, fourth)


@triton.jit
def get_all(scratch, SIZE: tl.constexpr, SHARED: tl.constexpr):
    """The first SIZE words of the scratch, int32 [SIZE]; 16 bytes a load."""
    at = tl.arange(0, SIZE // 4) * 4
    if SHARED:
        first, second, third, fourth = tl.inline_asm_elementwise(
            _LOAD_FOUR,
            "=r,=r,=r,=r,r",
            [scratch + at * 4],
            (tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=False,
            pack=1,
        )
    else:
        first = tl.load(scratch + at)
        second = tl.load(scratch + at + 1)
        third = tl.load(scratch + at + 2)
        fourth = tl.load(scratch + at + 3)
    return tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), [SIZE])


def spare_words(programs: int, device: torch.device) -> torch.Tensor:
    """What `scratch_of` takes its place from: nothing on a GPU, 16.5 KiB a program under the interpreter."""
    return torch.empty(SCRATCH_WORDS * programs if device.type == "cpu" else 0, dtype=torch.int32, device=device)
