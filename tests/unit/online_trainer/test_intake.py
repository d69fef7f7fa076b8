"""Reading the log: when a batch closes, and that its edges do not depend on how records are fetched."""

from __future__ import annotations

import time

import pytest

from contracts import topics
from online_trainer import intake
from online_trainer.intake import Intake
from online_trainer.plan import BatchPlan
from streams.event_log import Partition, Record
from tests.unit.online_trainer.conftest import World, click


def opened(world: World, batch_events: int = 8, linger_seconds: float = 60.0, stop_at_end: bool = False) -> Intake:
    start = dict.fromkeys(range(4), 0)
    return Intake(world.log, start, batch_events, linger_seconds, stop_at_end)


def work_off(reader: Intake) -> tuple[list[BatchPlan], list[Record]]:
    plans: list[BatchPlan] = []
    records: list[Record] = []
    while plan := reader.plan(len(plans) + 1, 0.0):
        plans.append(plan)
        records += reader.collect(plan)
    return plans, records


def test_edges_do_not_depend_on_how_records_are_fetched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.send(*map(click, range(100)))
    plans, records = work_off(opened(world, stop_at_end=True))
    monkeypatch.setattr(intake, "POLL_RECORDS", 1)
    assert work_off(opened(world, stop_at_end=True)) == (plans, records)
    assert len(records) == 100
    assert [sum(end - first for first, end in plan.ranges.values()) for plan in plans] == [8] * 12 + [4]


def test_records_come_by_partition_then_offset(world: World) -> None:
    world.send(*map(click, range(40)))
    reader = opened(world, batch_events=40)
    plan = reader.plan(1, 0.0)
    assert plan is not None
    places = [(record.partition, record.offset) for record in reader.collect(plan)]
    assert places == sorted(places)
    assert len(places) == 40


def test_a_batch_waits_to_be_full_but_not_longer_than_the_linger(world: World) -> None:
    reader = opened(world, linger_seconds=0.15)
    world.send(*map(click, range(3)))
    started = time.monotonic()
    assert reader.plan(1, 0.0) is None
    plan = reader.plan(1, 5.0)
    assert plan is not None
    assert sum(end - first for first, end in plan.ranges.values()) == 3
    assert 0.1 < time.monotonic() - started < 2
    reader.collect(plan)
    world.send(*map(click, range(3, 20)))
    plan = reader.plan(2, 5.0)
    assert plan is not None
    assert sum(end - first for first, end in plan.ranges.values()) == 8


def test_with_stop_at_end_what_comes_later_is_left(world: World) -> None:
    world.send(*map(click, range(10)))
    reader = opened(world, stop_at_end=True)
    world.send(*map(click, range(10, 20)))
    _, records = work_off(reader)
    assert len(records) == 10
    assert reader.exhausted
    assert reader.lag_events == 0


def test_seeking_back_reads_the_same_again(world: World) -> None:
    world.send(*map(click, range(40)))
    reader = opened(world, batch_events=16)
    before = dict(reader.offsets)
    plan = reader.plan(1, 0.0)
    assert plan is not None
    first = reader.collect(plan)
    reader.seek(before)
    assert reader.collect(plan) == first


def test_lag_counts_what_no_batch_has_taken(world: World) -> None:
    world.send(*map(click, range(20)))
    reader = opened(world)
    assert reader.lag_events == 20
    plan = reader.plan(1, 0.0)
    assert plan is not None
    reader.collect(plan)
    assert reader.lag_events == 12
    ends = world.log.end_offsets([Partition(topics.EVENTS, number) for number in range(4)])
    assert sum(ends.values()) - sum(reader.offsets.values()) == 12
