"""The demo from start to end: pre-train, start, show a user's list learn, load it, and hold the evidence together."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from rich.console import Console

from catalogue.datasets import load
from catalogue.replay import Timeline, split, timeline
from contracts.event import Event
from slipstream.cached_model import cached_model
from slipstream.demo.evidence import Evidence
from slipstream.demo.logged import LoggedEvents, read_events
from slipstream.demo.phases import Traffic, run_phases
from slipstream.demo.report import DemoReport
from slipstream.demo.show import list_table, print_lists
from slipstream.demo.traffic import EventStream
from slipstream.demo.world import MODEL, World, broker, running

DATASET = "ml-100k"
_PAST = 0.8
_MIN_HISTORY = 10
_COVER_SECONDS = 30.0


class NotTrainedInTime(Exception):
    """The trainer did not publish a release that covers every acknowledged event."""


@dataclass(frozen=True)
class DemoSettings:
    """What `slipstream demo` was told.

    Attributes:
        cache: holds the pre-trained model; a second run starts from it.
        run_dir: this run's logs, releases and trainer state.
        data: where the data set lies; None to find or fetch it.
        kafka: a broker of the user's; None for one of the demo's own.
        pretrain_epochs: passes over the past when the cache is empty; 4 take half a minute on two cores.
        port: the gateway's; another one is taken where this is not free.
        workers: of the trainer.
        keep: leave everything running at the end, until Ctrl-C.
    """

    cache: Path
    run_dir: Path
    data: Path | None = None
    kafka: str | None = None
    pretrain_epochs: float = 4.0
    port: int = 8080
    workers: int = 2
    keep: bool = False
    traffic: Traffic = field(default_factory=Traffic)


async def play(settings: DemoSettings, console: Console) -> DemoReport:
    """Run the demo; the report holds every number.

    Raises:
        DataError, PretrainingFailed, BrokerFailed, LogNotEmpty, ProcessDied, NotReadyInTime, NotTrainedInTime: each
            says what to do.
    """
    started = time.monotonic()
    line = timeline(load(DATASET, settings.data), seed=0)
    past, future = split(line, _PAST)
    console.print(f"[bold]1[/] {line.dataset.name}: {len(past):,} events are the past, {len(future):,} the stream")
    model_dir = cached_model(settings.cache, DATASET, settings.data, settings.pretrain_epochs)
    with broker(settings.kafka, settings.run_dir) as kafka:
        async with running(kafka, settings.run_dir, model_dir, past, settings.port, settings.workers) as world:
            trainer = f"a trainer of {settings.workers} workers" if settings.workers > 1 else "a trainer"
            console.print(f"[bold]2[/] starting {trainer}, two vLLM replicas and a gateway; logs in {settings.run_dir}")
            await world.wait_ready()
            evidence = await _loop(world, future, past, settings.traffic, console)
            if settings.keep:
                report = await asyncio.to_thread(evidence.report, line, len(past), model_dir, started)
                report.show(console)
                await _until_interrupted(world, console)
                return report
        return evidence.report(line, len(past), model_dir, started)


async def _loop(world: World, future: Timeline, past: Timeline, traffic: Traffic, console: Console) -> Evidence:
    shown, events = _shown_user(past, future)
    stream = EventStream(world.gateway.url, events)
    listed = await _show_learning(world, stream, shown, past, console)
    console.print(
        f"[bold]4[/] load: {traffic.request_rate:g} requests/s and {traffic.event_rate:g} events/s, "
        f"{traffic.quiet_seconds:g} s with the rollout paused, {traffic.swap_seconds:g} s with releases swapping"
    )
    phases = await run_phases(world.gateway, world.replica_urls, stream, traffic)
    world.keep_answers(phases.answers)
    await _show_again(world, stream, shown, listed, past, console)
    logged = await asyncio.to_thread(read_events, world.log)
    await _all_trained(world, stream, logged)
    world.supervisor.check()
    return Evidence(world.store, world.state, stream, phases, logged)


def _shown_user(past: Timeline, future: Timeline) -> tuple[str, list[Event]]:
    """The first of the stream's users whom the past knows well, and the stream with one event of theirs in front."""
    known = np.bincount(past.user, minlength=len(past.dataset.users))
    first = int(np.flatnonzero(known[future.user] >= _MIN_HISTORY)[0])
    events = list(future)
    return events[first].user_id, [events[first], *events[:first], *events[first + 1 :]]


async def _show_learning(
    world: World, stream: EventStream, user_id: str, past: Timeline, console: Console
) -> list[str]:
    """Print the list before a click, after it, and by weights that learned from it; returns the last."""
    titles = {item.item_id: item.title for item in past.dataset.items}
    before = await world.gateway.recommend(user_id)
    async with aiohttp.ClientSession() as session:
        clicked = stream.events[0]
        await stream.post(session, [clicked])
    posted_at = time.monotonic()
    after_click = await world.gateway.recommend(user_id)
    learned = await world.gateway.recommend_from(user_id, (before.model_version or 0) + 1, _COVER_SECONDS)
    seconds = time.monotonic() - posted_at
    console.print(f"[bold]3[/] user {user_id} now takes [bold]{titles[clicked.item_id]}[/]")
    old = [item.item_id for item in before.items]
    middle = [item.item_id for item in after_click.items]
    print_lists(
        console,
        [
            list_table("before", before, titles, []),
            list_table("after the click (history)", after_click, titles, old),
            list_table(f"{seconds:.1f} s later (weights)", learned, titles, middle),
        ],
    )
    return [item.item_id for item in learned.items]


async def _show_again(
    world: World, stream: EventStream, user_id: str, listed: list[str], past: Timeline, console: Console
) -> None:
    """Print what the same history gives by the weights that the stream has left: the change is theirs alone."""
    dataset = past.dataset
    taken = past.item[past.user == dataset.users.index(user_id)]
    history = [*(dataset.item_ids[item] for item in taken), stream.events[0].item_id]
    answer = await world.gateway.rank(world.replica_urls[0], history)
    titles = {item.item_id: item.title for item in dataset.items}
    title = f"user {user_id}, the same history, {stream.posted:,} events later"
    print_lists(console, [list_table(title, answer, titles, listed)])


async def _all_trained(world: World, stream: EventStream, logged: LoggedEvents) -> None:
    """Until a release covers every acknowledged event."""
    wanted: dict[int, int] = {}
    for event_id in stream.acknowledged_at:
        position = logged.positions[event_id]
        wanted[position.partition] = max(position.offset, wanted.get(position.partition, 0))
    deadline = time.monotonic() + _COVER_SECONDS
    while time.monotonic() < deadline:
        newest = world.store.manifest(MODEL, world.store.versions(MODEL)[-1])
        if all(newest.covers(partition, offset) for partition, offset in wanted.items()):
            return
        await asyncio.sleep(0.2)
    raise NotTrainedInTime(f"no release covers the last events after {_COVER_SECONDS:.0f} s; see the trainer's log")


async def _until_interrupted(world: World, console: Console) -> None:
    console.print(f"gateway {world.gateway.url}/docs · replicas {', '.join(world.replica_urls)} · broker {world.kafka}")
    console.print(f'curl -s {world.gateway.url}/v1/recommendations -d \'{{"user_id": "1"}}\'    Ctrl-C ends everything')
    while True:
        world.supervisor.check()
        await asyncio.sleep(1.0)
