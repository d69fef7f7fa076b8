"""numba, set up for these kernels: compiled code is kept in the user's cache folder, and no compiler is needed.

`parallel` compiles a `prange` function for all cores; `inline` a helper that those call. Exactness: neither
reorders floating-point arithmetic, and LLVM fuses no multiply-add unless told to. `counting` may reorder sums;
it is for counts held in fp32, which are exact below 2²⁴ in any order and fill 16 lanes of a vector register.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slipstream" / "numba"
    )

parallel: Any = numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")
inline: Any = numba.njit(cache=True, nogil=True, error_model="numpy")
counting: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})
prange = numba.prange


@intrinsic
def lanes_at_least(typing_context: Any, address: Any, threshold: Any) -> Any:
    """Bit i of the uint64 result: whether the int32 at `address` + 4 i reaches `threshold`; reads 64 of them.

    One compare and one move-mask a vector register; LLVM lowers it for any processor.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(32), 64)
        values = builder.load(builder.inttoptr(arguments[0], lanes.as_pointer()), align=4)
        first = builder.insert_element(ir.Constant(lanes, ir.Undefined), arguments[1], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        spread = builder.shuffle_vector(first, ir.Constant(lanes, ir.Undefined), zeros)
        return builder.bitcast(builder.icmp_signed(">=", values, spread), ir.IntType(64))

    return types.uint64(types.uintp, types.int32), generate


@intrinsic
def lowest_bit(typing_context: Any, word: Any) -> Any:
    """Position of the lowest set bit of a non-zero uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def stream_64(typing_context: Any, destination: Any, source: Any) -> Any:
    """Copy 64 bytes past the caches, from address `source` to `destination` (64-byte aligned)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(ir.IntType(32), 16)
        value = builder.load(builder.inttoptr(arguments[1], line.as_pointer()), align=4)
        store = builder.store(value, builder.inttoptr(arguments[0], line.as_pointer()), align=64)
        hint = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        store.set_metadata("nontemporal", hint)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


@intrinsic
def byte_pointer(typing_context: Any, address: Any) -> Any:
    """A uint8 pointer to `address`, for `numba.carray`: a list of buffers without a compilation per length."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.uintp), generate


@intrinsic
def prefetch_for_write(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at `address`; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        hints = [ir.Constant(word, value) for value in (1, 3, 1)]
        builder.call(function, [builder.inttoptr(arguments[0], byte), *hints])
        return context.get_dummy_value()

    return types.void(types.uintp), generate
