"""Many recommendations or one swap."""

from __future__ import annotations

import asyncio

import pytest

from serving.swap_gate import SwapGate


async def test_a_swap_waits_for_those_inside_and_holds_back_those_outside() -> None:
    gate, events, leave = SwapGate(), [], asyncio.Event()

    async def recommend(name: str, until: asyncio.Event | None) -> None:
        async with gate.recommendation():
            events.append(f"{name} in")
            if until is not None:
                await until.wait()
            events.append(f"{name} out")

    async def swap() -> None:
        async with gate.swap():
            events.append("swap")
            assert gate.in_flight == 0
            await asyncio.sleep(0)

    first = asyncio.create_task(recommend("first", leave))
    await asyncio.sleep(0)
    swapping = asyncio.create_task(swap())
    await asyncio.sleep(0)
    second = asyncio.create_task(recommend("second", None))
    await asyncio.sleep(0)
    assert events == ["first in"]
    leave.set()
    await asyncio.gather(first, swapping, second)
    assert events == ["first in", "first out", "swap", "second in", "second out"]


async def test_the_gate_opens_after_a_swap_that_failed() -> None:
    gate = SwapGate()
    with pytest.raises(RuntimeError, match="broken"):
        async with gate.swap():
            raise RuntimeError("broken")
    async with asyncio.timeout(1), gate.recommendation():
        assert gate.in_flight == 1


async def test_a_recommendation_that_is_given_up_does_not_block_a_swap() -> None:
    gate, never = SwapGate(), asyncio.Event()

    async def recommend() -> None:
        async with gate.recommendation():
            await never.wait()

    task = asyncio.create_task(recommend())
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(1), gate.swap() as drain_ms:
        assert drain_ms >= 0


async def test_swaps_come_one_at_a_time() -> None:
    gate, inside = SwapGate(), 0

    async def swap() -> None:
        nonlocal inside
        async with gate.swap():
            inside += 1
            await asyncio.sleep(0)
            assert inside == 1
            inside -= 1

    await asyncio.gather(swap(), swap(), swap())
