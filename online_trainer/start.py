"""Starting a trainer: for the first time, or again after whatever ended the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from contracts import topics
from online_trainer.admission import Admission
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.growth import Newcomers
from online_trainer.intake import Intake
from online_trainer.item_feed import ItemFeed
from online_trainer.journal import Beginning, Journal
from online_trainer.learner import Learner
from online_trainer.metrics import TrainerMetrics
from online_trainer.patience import Patience
from online_trainer.plan import WHOLE, Share
from online_trainer.progress import Progress
from online_trainer.publisher import Publisher
from online_trainer.settings import TrainerSettings, resolve_train_from
from online_trainer.state import StateFolder, is_of_ranks
from online_trainer.trainer import Trainer
from online_trainer.warm_up import warm_up
from recommender.loading import Recommender
from releases.store import ReleaseStore
from streams.event_log import EventLog

_log = structlog.get_logger(__name__)


class StateDoesNotFit(Exception):
    """The state folder belongs to another model or another log."""


def start_trainer(
    settings: TrainerSettings,
    recommender: Recommender,
    connect: Callable[[], EventLog],
    store: ReleaseStore,
    metrics: TrainerMetrics,
    patience: Patience,
    tokenizer: Any = None,
) -> Trainer:
    """A trainer that stands where the last one was committed, is the model's writer and has announced its version.

    The first start fills the histories and publishes the model's own weights, as version 1 in a new store.

    Args:
        connect: opens a connection to the log; called twice, and again after a lost transactional id.
        tokenizer: a base model's, for the titles of new items.

    Raises:
        StateInUse, JournalDamaged: see `StateFolder`. StateDoesNotFit, ValueError: the text says what to do.
        WriterReplaced: yet another trainer has taken over meanwhile. Stopped: while the log or the store was away.
    """
    refuse_ranks(settings)
    state = StateFolder(settings.state)
    learner = Learner(recommender, settings.recipe)
    log = connect()
    item_ids = recommender.vocabulary.item_ids
    publisher = Publisher(settings.model, store, connect, settings.keep_releases, settings.anchor_every, item_ids)
    admission = Admission(log, recommender.vocabulary.index, metrics)
    beginning = patience.wait_for(lambda: begin(settings, state.journal, log))
    newest = patience.wait_for_store(publisher.take_over)
    progress = Progress(state, learner, settings.history_events, settings.dedupe_events)
    if progress.committed is None:
        first_start(beginning, progress, log, admission, patience, newest + 1)
    else:
        reach(FaultPoint.START_RESTORED)
        _log.info("restored", version=progress.committed.version, plans_applied=progress.plans_applied)
    intake = patience.wait_for(lambda: open_intake(settings, progress, log))
    newcomers = Newcomers(ItemFeed(log), metrics, tokenizer)
    trainer = Trainer(
        settings, state, learner, progress, intake, admission, publisher, metrics, patience, log, newcomers
    )
    trainer.publish()
    reach(FaultPoint.START_ANNOUNCED)
    return trainer


def refuse_ranks(settings: TrainerSettings) -> None:
    """Raises StateDoesNotFit for the folder of a synchronous group."""
    if is_of_ranks(settings.state):
        raise StateDoesNotFit(
            f"{settings.state} was written by `--exchange sync`: go on with it and as many workers, or give this "
            "trainer a folder of its own"
        )


def begin(settings: TrainerSettings, journal: Journal, log: EventLog, share: Share = WHOLE) -> Beginning:
    """Where training begins, decided once and journalled before anything is read.

    Raises:
        StateDoesNotFit: the folder was begun for another model, or by a group of another size.
    """
    if (found := journal.beginning) is not None:
        if found.model != settings.model:
            raise StateDoesNotFit(
                f"{settings.state} holds the state of model {found.model}, not {settings.model}; "
                "give each model a folder of its own"
            )
        if found.share != share:
            raise StateDoesNotFit(
                f"{settings.state} was begun by worker {found.share.number} of {found.share.of}, this is worker "
                f"{share.number} of {share.of}; start as many workers as before, or begin with an empty folder"
            )
        return found
    partitions = log.partitions(topics.EVENTS)
    begins = {partition.partition: offset for partition, offset in log.begin_offsets(partitions).items()}
    ends = {partition.partition: offset for partition, offset in log.end_offsets(partitions).items()}
    train_from = resolve_train_from(settings.train_from, begins, ends)
    beginning = Beginning(
        model=settings.model,
        history_from={partition: offset for partition, offset in begins.items() if share.has(partition)},
        train_from={partition: offset for partition, offset in train_from.items() if share.has(partition)},
        share=share,
    )
    if not journal.append(beginning):
        raise OSError(f"{settings.state}: the disk is full; a trainer can't start without its journal")
    reach(FaultPoint.START_JOURNAL_BEGUN)
    return beginning


def first_start(
    beginning: Beginning,
    progress: Progress,
    log: EventLog,
    admission: Admission,
    patience: Patience,
    version: int,
) -> None:
    """Fill the histories, commit the model's own weights."""
    fill_histories(beginning, progress, log, admission, patience)
    progress.commit(version)
    _log.info("first_start", version=version, train_from=beginning.train_from)


def fill_histories(
    beginning: Beginning, progress: Progress, log: EventLog, admission: Admission, patience: Patience
) -> None:
    """Read what lies before training's beginning into empty histories."""
    patience.wait_for(
        lambda: warm_up(log, beginning, admission, progress.start_over(beginning.train_from), progress.history)
    )
    reach(FaultPoint.START_WARMED_UP)


def open_intake(settings: TrainerSettings, progress: Progress, log: EventLog, share: Share = WHOLE) -> Intake:
    """A reader behind the checkpoint. Partitions that the topic has got since are read from their beginning."""
    partitions = [found for found in log.partitions(topics.EVENTS) if share.has(found.partition)]
    begins, ends = log.begin_offsets(partitions), log.end_offsets(partitions)
    start = {}
    for partition in partitions:
        offset = start[partition.partition] = progress.offsets.get(partition.partition, begins[partition])
        if not begins[partition] <= offset <= ends[partition]:
            raise StateDoesNotFit(
                f"{settings.state} goes on at offset {offset} of {partition.topic}[{partition.partition}], which "
                f"holds {begins[partition]} to {ends[partition]}; this is another log, or its records have expired"
            )
    progress.offsets = start
    return Intake(log, start, settings.batch_events, settings.linger_seconds, settings.stop_at_end)
