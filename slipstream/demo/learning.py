"""Did learning online pay? NDCG@10 of the streamed events, test then train, against the frozen model and popularity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from catalogue.popularity import Popularity
from catalogue.replay import Timeline
from online_trainer.ledger import LedgerRow
from recommender.loading import Recommender
from recommender.prequential import frozen, heuristic
from recommender.ranking import paired_bootstrap


@dataclass(frozen=True)
class Learning:
    """Mean NDCG@10 over the same events; `gain_low` is the 95 % interval's lower end of online minus frozen."""

    events: int
    frozen: float
    online: float
    popular_7_days: float
    gain_low: float


def learning(recommender: Recommender, line: Timeline, start: int, rows: Iterable[LedgerRow]) -> Learning:
    """Compare on the events of `rows`, which must be the stretch of `line` that begins at `start`.

    Online: as the trainer's ledger has it, scored by the weights before they moved. Frozen: the weights the trainer
    began with, on live histories. All three rank the whole catalogue but for what the user has seen, a user's events
    of one instant from the state before it, ties at their expected rank.
    """
    online_of = {row.event_id: row.ndcg for row in rows if row.ndcg is not None and row.event_id is not None}
    cut = line[: start + len(online_of)]
    ids = [event.event_id for event in cut[start:]]
    online = np.array([online_of.get(event_id, np.nan) for event_id in ids])
    if np.isnan(online).any():
        raise ValueError(f"{int(np.isnan(online).sum())} streamed events are not in the trainer's ledger")
    still = frozen(recommender, cut, start)
    popular = heuristic(Popularity.last_days(7, line.dataset.item_ids), cut, start)
    gain = paired_bootstrap(online - still.ndcg, still.user)
    return Learning(len(ids), float(still.ndcg.mean()), float(online.mean()), float(popular.ndcg.mean()), gain.low)
