"""Starting a rank: for the first time, or again with its whole group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import structlog

from online_trainer.admission import Admission
from online_trainer.exchange import payloads
from online_trainer.exchange.layout import FlatLayout
from online_trainer.exchange.messages import Rule
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.metrics import TrainerMetrics
from online_trainer.patience import Patience
from online_trainer.plan import Share
from online_trainer.progress import Progress
from online_trainer.publisher import Publisher
from online_trainer.rounds.commit import Outcome, commit, restore
from online_trainer.rounds.dedupe import share_windows
from online_trainer.rounds.group import RankGroup
from online_trainer.rounds.learner import rounds_learner
from online_trainer.rounds.metrics import RoundMetrics
from online_trainer.rounds.rank import Rank
from online_trainer.rounds.writer import Writer
from online_trainer.settings import TrainerSettings
from online_trainer.start import StateDoesNotFit, begin, fill_histories, open_intake
from online_trainer.state import StateFolder, rank_folder
from recommender.loading import Recommender
from releases.store import ReleaseStore
from streams.event_log import EventLog

_log = structlog.get_logger(__name__)


def start_rank(
    group: RankGroup,
    settings: TrainerSettings,
    rule: Rule,
    recommender: Recommender,
    connect: Callable[[], EventLog],
    store: ReleaseStore,
    metrics: TrainerMetrics,
    patience: Patience,
    slow_down: float = 1.0,
) -> Rank:
    """This rank where the group was last committed; rank 0 is the model's writer and has announced its version.

    Partitions are each `group.size`-th from `group.rank` on; the state is in `settings.state`/rank-N.

    Raises:
        StateInUse, JournalDamaged, StateDoesNotFit, ValueError: the text says what to do.
        GroupDiffers, RankLost: see `RankGroup`. Stopped: while the log or the store was away.
    """
    if (settings.state / "journal.jsonl").exists():
        raise StateDoesNotFit(
            f"{settings.state} was written without `--exchange sync`: give the group a state folder of its own"
        )
    payloads.warm_up(rule)
    share = Share(group.rank, group.size)
    folder = rank_folder(settings.state, group.rank)
    settings = dataclasses.replace(settings, state=folder)
    state = StateFolder(folder)
    recipe = settings.recipe
    recommender.model.to(group.device)
    learner = rounds_learner(recommender, msgspec.structs.replace(recipe, seed=recipe.seed + group.rank), rule)
    layout = FlatLayout.of(dict(learner.learning.named_parameters()))
    group.must_agree("the model's layout", int(layout.digest[:12], 16))
    reach(FaultPoint.ROUND_JOINED)
    log = connect()
    publisher = None
    if group.rank == 0:
        publisher = Publisher(settings.model, store, connect, settings.keep_releases, settings.anchor_every)
    admission = Admission(log, recommender.vocabulary.index, metrics)
    beginning = patience.wait_for(lambda: begin(settings, state.journal, log, share))
    newest = patience.wait_for_store(publisher.take_over) if publisher is not None else 0
    restore(group, state.checkpoints)
    progress = Progress(state, learner, settings.history_events, settings.dedupe_events)
    reach(FaultPoint.ROUND_RESTORED)
    if progress.committed is None:
        fill_histories(beginning, progress, log, admission, patience)
        # Nobody but rank 0 knows the newest version; the largest word is its.
        version = -group.least(-(newest + 1))
        if commit(group, progress, version) is not Outcome.COMMITTED:
            raise StateDoesNotFit(f"{settings.state}: the first checkpoint could not be written; see the log")
        _log.info("first_start", version=version, train_from=beginning.train_from)
    share_windows(group, progress.users.seen, list(progress.offsets))
    intake = patience.wait_for(lambda: open_intake(settings, progress, log, share))
    writer = Writer(settings, publisher, metrics) if publisher is not None else None
    rank = Rank(
        settings, group, state, learner, progress, intake, admission, writer,
        RoundMetrics(metrics, group.rank, layout.num_elements), patience, log, rule.local_steps, slow_down,
    )  # fmt: skip
    rank.publish()
    reach(FaultPoint.START_ANNOUNCED)
    return rank
