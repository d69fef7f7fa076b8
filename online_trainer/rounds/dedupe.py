"""One event id in two partitions, and so perhaps with two ranks: the lower rank has it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from online_trainer.admission import Arrival
from online_trainer.ledger import Untrained
from online_trainer.rounds.group import RankGroup
from online_trainer.users import DedupeWindow
from recommender.online import Averaged

Told = list[tuple[int, str, bool]]
"""(partition, event id, whether it is to be trained) of a rank's new events, in their order."""
_windows = msgspec.json.Decoder(dict[int, list[str]])


def share_windows(group: RankGroup, seen: DedupeWindow, own: Sequence[int]) -> None:
    """Give all ranks the ids that each remembers of its partitions: at a start."""
    said = msgspec.json.encode({partition: seen.of(partition) for partition in own})
    for rank, data in enumerate(group.gather(said)):
        if rank != group.rank:
            for partition, ids in _windows.decode(data).items():
                seen.replace(partition, ids)


def settle(group: RankGroup, arrivals: list[Arrival], seen: DedupeWindow) -> tuple[list[Arrival], Averaged]:
    """The own arrivals with what lower ranks have marked as duplicates, and what the round's step averages.

    The others' ids are remembered from now on.
    """
    said = group.gather(msgspec.json.encode(_tell(arrivals)))
    rounds: list[Told] = [msgspec.json.decode(data, type=Told) for data in said]
    taken: set[str] = set()
    events = []
    for rank, told in enumerate(rounds):
        if rank == group.rank:
            arrivals = [_settled(arrival, taken) for arrival in arrivals]
        events.append(sum(trained and event_id not in taken for _, event_id, trained in told))
        taken |= {event_id for _, event_id, _ in told}
        if rank != group.rank:
            for partition, event_id, _ in told:
                seen.add(partition, event_id)
    return arrivals, Averaged(group.size, sum(map(bool, events)), sum(events))


def _tell(arrivals: Sequence[Arrival]) -> Told:
    return [
        (record.partition, event.event_id, reason is None)
        for record, event, reason in arrivals
        if event is not None and reason is not Untrained.DUPLICATE
    ]


def _settled(arrival: Arrival, taken: set[str]) -> Arrival:
    if arrival.event is None or arrival.event.event_id not in taken:
        return arrival
    return arrival._replace(reason=Untrained.DUPLICATE)
