"""Starting owners and workers, for the first time or after whatever ended the last ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
import zmq

from contracts import topics
from online_trainer.admission import Admission
from online_trainer.exchange import payloads
from online_trainer.exchange.asynchronous import AsynchronousExchange
from online_trainer.exchange.growth import BackgroundFeed, GroupGrowth
from online_trainer.exchange.layout import bind, cut
from online_trainer.exchange.link import Keys, Link
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.metrics import ExchangeMetrics
from online_trainer.exchange.owner import Identity, Owner, Send
from online_trainer.exchange.releasing import Releaser
from online_trainer.exchange.replica import Replica
from online_trainer.exchange.sequencer import GroupSettings, Sequencer
from online_trainer.exchange.shard import ShardOwner
from online_trainer.exchange.worker import Worker
from online_trainer.exchange.write_ahead import WriteAheadLog
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.growth import Newcomers
from online_trainer.item_feed import ItemFeed
from online_trainer.learner import Learner
from online_trainer.metrics import TrainerMetrics
from online_trainer.patience import Patience
from online_trainer.progress import Progress
from online_trainer.publisher import Publisher
from online_trainer.settings import TrainerSettings
from online_trainer.start import StateDoesNotFit, begin, first_start, refuse_ranks
from online_trainer.state import StateFolder
from recommender.loading import Recommender
from releases.store import ReleaseStore
from streams.event_log import EventLog

_log = structlog.get_logger(__name__)


@dataclass
class OwnerProcess:
    """What the owner's loop turns."""

    owner: Owner
    releaser: Releaser
    state: StateFolder
    log: EventLog
    orders: WriteAheadLog

    def close(self) -> None:
        """Let go of files and connections."""
        if self.owner.growth is not None:
            self.owner.growth.close()
        self.releaser.close()
        self.orders.close()
        self.owner.progress.close()
        self.log.close()
        self.state.close()


class _Seen:
    """The event ids in the weights, whatever object holds them at the moment."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._progress.users.seen


def start_owner(
    settings: TrainerSettings,
    group: GroupSettings,
    rule: Rule,
    recommender: Recommender,
    connect: Callable[[], EventLog],
    store: ReleaseStore,
    metrics: TrainerMetrics,
    patience: Patience,
    send: Send,
    shards: list[str],
    tokenizer: Any = None,
) -> OwnerProcess:
    """Owner 0 where the last one stopped, as the model's writer.

    Where it keeps the whole vector, it follows the items topic and adds what the model lacks; an owner of one shard of
    several has not the rows that a new item starts from, and adds nothing.

    Args:
        tokenizer: a base model's, for the titles of new items.

    Raises:
        StateInUse, JournalDamaged, LogDamaged, StateDoesNotFit, ValueError: the text says what to do.
        WriterReplaced: another has taken over meanwhile. Stopped: while the log or the store was away.
    """
    refuse_ranks(settings)
    payloads.warm_up(rule)
    state = StateFolder(settings.state)
    layout, flat = bind(recommender.model)
    start, stop = cut(layout.num_elements, len(shards))[0]
    replica = Replica(flat[start:stop], rule, start)
    log = connect()
    item_ids = recommender.vocabulary.item_ids
    publisher = Publisher(settings.model, store, connect, settings.keep_releases, settings.anchor_every, item_ids)
    admission = Admission(log, recommender.vocabulary.index, metrics)
    beginning = patience.wait_for(lambda: begin(settings, state.journal, log))
    newest = patience.wait_for_store(publisher.take_over)
    progress = Progress(state, replica, settings.history_events, settings.dedupe_events)
    if progress.committed is None:
        first_start(beginning, progress, log, admission, patience, newest + 1)
    if progress.plans_applied != replica.index:
        raise StateDoesNotFit(
            f"{settings.state} was written by a single worker: give several workers a state folder of their own"
        )
    orders = WriteAheadLog(state.folder / "orders")
    offsets, ends = patience.wait_for(lambda: _offsets(settings, progress, log))
    sequencer = Sequencer(offsets, group, _Seen(progress), replica.index, progress.applied)
    identity = Identity(model=settings.model, layout=layout.digest, rule=rule, shards=shards)
    owner = Owner(
        identity, replica, progress, orders, sequencer, metrics, ExchangeMetrics(metrics.registry), send,
        ends if settings.stop_at_end else None,
    )  # fmt: skip
    owner.cut = replica.index if len(shards) > 1 else 0
    for ordered in orders.replay(replica.index, owner.book):
        owner.replay(ordered, passed=state.journal.is_passed(ordered.entry.order.index))
    if len(shards) == 1:
        feed = ItemFeed(log)
        patience.wait_for(feed.look)
        owner.growth = GroupGrowth(recommender, layout, Newcomers(BackgroundFeed(feed), metrics, tokenizer))
        while owner.grow():
            pass
    reach(FaultPoint.OWNER_REPLAYED)
    _log.info("owner_restored", order=replica.index, offsets=sequencer.offsets)
    releaser = Releaser(
        settings, progress, state.journal, orders, publisher, metrics, replica.serving, layout.views, owner, len(shards)
    )
    return OwnerProcess(owner, releaser, state, log, orders)


def start_shard(
    number: int,
    settings: TrainerSettings,
    rule: Rule,
    recommender: Recommender,
    addresses: list[str],
    keys: Keys | None,
    send: Send,
) -> ShardOwner:
    """Owner of shard `number` where the last one stopped; it follows owner 0, at the first of `addresses`."""
    payloads.warm_up(rule)
    layout, flat = bind(recommender.model)
    start, stop = cut(layout.num_elements, len(addresses))[number]
    replica = Replica(flat[start:stop].clone(), rule, start)
    link = Link(zmq.Context.instance(), addresses[0], keys)
    return ShardOwner(number, replica, settings.state / f"shard-{number}", link, send)


def start_worker(
    name: str,
    number: int,
    settings: TrainerSettings,
    recommender: Recommender,
    connect: Callable[[], EventLog],
    address: str,
    keys: Keys | None,
    metrics: TrainerMetrics,
    patience: Patience,
    slow_down: float = 1.0,
    rule: Rule | None = None,
) -> Worker:
    """A worker of the group whose owner 0 listens at `address`.

    Args:
        number: tells its random draws from the others'.
        rule: what it will probably be told, to get ready for.
    """
    payloads.warm_up(rule or Rule())
    recipe = settings.recipe
    learner = Learner(recommender, msgspec.structs.replace(recipe, seed=recipe.seed + number))
    layout, learning = bind(learner.learning)
    serving = learning
    if recipe.average:
        layout, serving = bind(learner.recommender.model)
    exchange = AsynchronousExchange(
        name, learning, serving if recipe.average else None, settings.model, layout.digest, address, keys
    )
    return Worker(
        exchange,
        learner,
        learning,
        serving,
        connect(),
        metrics,
        patience,
        settings.history_events,
        settings.dedupe_events,
        settings.linger_seconds,
        slow_down,
    )


def _offsets(settings: TrainerSettings, progress: Progress, log: EventLog) -> tuple[dict[int, int], dict[int, int]]:
    """Where each partition goes on, and its present end. New partitions are read from their beginning."""
    partitions = log.partitions(topics.EVENTS)
    begins, ends = log.begin_offsets(partitions), log.end_offsets(partitions)
    offsets = {p.partition: progress.offsets.get(p.partition, begins[p]) for p in partitions}
    for partition in partitions:
        offset = offsets[partition.partition]
        if not begins[partition] <= offset <= ends[partition]:
            raise StateDoesNotFit(
                f"{settings.state} goes on at offset {offset} of {partition.topic}[{partition.partition}], which "
                f"holds {begins[partition]} to {ends[partition]}; this is another log, or its records have expired"
            )
    return offsets, {partition.partition: end for partition, end in ends.items()}
