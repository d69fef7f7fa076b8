"""numba, set up for these kernels: compiled code is kept in the user's cache folder, and no compiler is needed.

`parallel` compiles a `prange` function for all cores; `inline` a helper that those call. Exactness: neither
reorders floating-point arithmetic, and LLVM fuses no multiply-add unless told to. `counting` may reorder sums;
it is for counts held in fp32, which are exact below 2²⁴ in any order and fill 16 lanes of a vector register.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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


_LANES, _WORDS = ir.VectorType(ir.FloatType(), 64), ir.VectorType(ir.IntType(32), 64)


def _splat(builder: Any, word: Any) -> Any:
    """A 64-lane vector of one int32: a constant, or a value at run time."""
    if isinstance(word, int):
        return ir.Constant(_WORDS, [word] * 64)
    undefined = ir.Constant(_WORDS, ir.Undefined)
    first = builder.insert_element(undefined, word, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, _splat(builder, 0))


def _magnitudes(builder: Any, values: Any) -> Any:
    """fp32 lanes without their signs, as int32 patterns: these order as the magnitudes do."""
    return builder.and_(builder.bitcast(values, _WORDS), _splat(builder, 0x7FFFFFFF))


def _reaching(builder: Any, magnitudes: Any, threshold: Any) -> Any:
    """The int64 whose bit i says whether lane i reaches `threshold`: a compare and a move-mask a register."""
    return builder.bitcast(builder.icmp_signed(">=", magnitudes, _splat(builder, threshold)), ir.IntType(64))


@intrinsic
def lanes_at_least(typing_context: Any, address: Any, threshold: Any) -> Any:
    """Bit i of the uint64 result: whether the magnitude of the fp32 at `address` + 4 i reaches `threshold` (int32).

    Reads 64 of them; the threshold is a pattern. LLVM lowers it for any processor.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reaching(builder, _magnitudes(builder, _load_fp32(builder, arguments[0])), arguments[1])

    return types.uint64(types.uintp, types.int32), generate


def _adding(load: Callable[[Any, Any], Any]) -> Any:
    """The intrinsic that adds 64 gradient elements, read by `load`, to the residual."""
    infinity = 0x7F800000

    @intrinsic
    def add_lanes(typing_context: Any, gradient: Any, residual: Any, threshold: Any) -> Any:
        """Add 64 elements at the address `gradient` to the fp32 at `residual`.

        Returns (lanes whose new magnitude reaches `threshold`, lanes that were not finite); a sum that is not finite
        becomes the old residual alone, or 0.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            home = builder.inttoptr(arguments[1], _LANES.as_pointer())
            old = builder.load(home, align=4)
            total = builder.fadd(load(builder, arguments[0]), old)
            builder.store(total, home, align=4)
            magnitudes = _magnitudes(builder, total)
            reaching = cgutils.alloca_once_value(builder, _reaching(builder, magnitudes, arguments[2]))
            bad = _reaching(builder, magnitudes, infinity)
            with builder.if_then(builder.icmp_unsigned("!=", bad, ir.Constant(ir.IntType(64), 0)), likely=False):
                zeros = ir.Constant(_LANES, [0.0] * 64)
                usable = builder.icmp_signed("<", _magnitudes(builder, old), _splat(builder, infinity))
                finite = builder.icmp_signed("<", magnitudes, _splat(builder, infinity))
                cleaned = builder.select(finite, total, builder.select(usable, old, zeros))
                builder.store(cleaned, home, align=4)
                builder.store(_reaching(builder, _magnitudes(builder, cleaned), arguments[2]), reaching)
            return cgutils.pack_array(builder, [builder.load(reaching), bad])

        return types.UniTuple(types.uint64, 2)(types.uintp, types.uintp, types.int32), generate

    return add_lanes


def _load_fp32(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _LANES.as_pointer()), align=4)


def _load_bf16(builder: Any, address: Any) -> Any:
    patterns = builder.load(builder.inttoptr(address, ir.VectorType(ir.IntType(16), 64).as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(patterns, _WORDS), _splat(builder, 16)), _LANES)


add_fp32_lanes, add_bf16_lanes = _adding(_load_fp32), _adding(_load_bf16)


@intrinsic
def lanes_above(typing_context: Any, address: Any, thresholds: Any) -> Any:
    """Bit i of the uint16 result: whether the fp32 at `address` + 4 i is above that at `thresholds` + 4 i."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(ir.FloatType(), 16)
        values, floor = (builder.load(builder.inttoptr(at, lanes.as_pointer()), align=4) for at in arguments)
        return builder.bitcast(builder.fcmp_ordered(">", values, floor), ir.IntType(16))

    return types.uint16(types.uintp, types.uintp), generate


@intrinsic
def as_float32(typing_context: Any, pattern: Any) -> Any:
    """The fp32 with this int32 pattern."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def lowest_bit(typing_context: Any, word: Any) -> Any:
    """Position of the lowest set bit of a non-zero uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def count_bits(typing_context: Any, word: Any) -> Any:
    """Set bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

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
def load_64(typing_context: Any, address: Any) -> Any:
    """The uint64 at any address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.uintp), generate


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


def multiplier(items: int, groups: int) -> Any:
    """The intrinsic that multiplies `items` rows by a panel of 16 · `groups` columns, sums held in registers.

    items · groups ≤ 24 sums, `groups` lines of the panel and one broadcast fit the 32 registers of AVX-512.
    """
    line, word = ir.VectorType(ir.FloatType(), 16), ir.IntType(32)

    def sums(builder: Any, panel: Any, rows: Any, stride: Any, depth: Any) -> list[list[Any]]:
        zero, undefined = ir.Constant(line, [0.0] * 16), ir.Constant(line, ir.Undefined)
        held = [[cgutils.alloca_once_value(builder, zero) for _ in range(groups)] for _ in range(items)]
        kind = ir.FunctionType(line, [line] * 3)
        multiply_add = cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.v16f32")
        with cgutils.for_range(builder, depth) as loop:

            def lines(base: Any, number: int) -> Any:
                offset = builder.mul(loop.index, loop.index.type(64 * groups))
                return builder.load(
                    builder.inttoptr(
                        builder.add(base, builder.add(offset, offset.type(64 * number))), line.as_pointer()
                    ),
                    align=4,
                )

            columns = [lines(panel, number) for number in range(groups)]
            for i in range(items):
                at = builder.add(
                    rows, builder.add(builder.mul(stride, stride.type(i)), builder.mul(loop.index, loop.index.type(4)))
                )
                value = builder.load(builder.inttoptr(at, ir.FloatType().as_pointer()), align=4)
                spread = builder.shuffle_vector(
                    builder.insert_element(undefined, value, word(0)),
                    undefined,
                    ir.Constant(ir.VectorType(word, 16), [0] * 16),
                )
                for column, place in zip(columns, held[i], strict=True):
                    builder.store(builder.call(multiply_add, [spread, column, builder.load(place)]), place)
        return held

    @intrinsic
    def multiply(typing_context: Any, panel: Any, rows: Any, stride: Any, depth: Any, out: Any, out_stride: Any) -> Any:
        """out[i, c] = Σ_d rows[i, d] · panel[d, c]; addresses and strides in bytes, fp32, `panel` [depth, columns]."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            panel, rows, stride, depth, out, out_stride = arguments
            held = sums(builder, panel, rows, stride, depth)
            for i in range(items):
                for number in range(groups):
                    at = builder.add(builder.mul(out_stride, out_stride.type(i)), out_stride.type(64 * number))
                    place = builder.inttoptr(builder.add(out, at), line.as_pointer())
                    builder.store(builder.load(held[i][number]), place, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), generate

    return multiply
