"""One batch: arrivals grouped by user, one step, one ledger row each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from online_trainer.admission import Arrival
from online_trainer.learner import Learner, StepReport, Verdict
from online_trainer.ledger import LedgerRow, Untrained
from online_trainer.users import Histories
from recommender.examples import Interaction, UserUpdate


class Grouped(NamedTuple):
    """A batch as the learner takes it.

    Attributes:
        updates: one for each user, in order of first appearance.
        places: for each arrival, its (user, position) in `updates`; None for one that is no new event.
    """

    updates: list[UserUpdate]
    places: list[tuple[int, int] | None]


def group(arrivals: Iterable[Arrival], histories: Histories) -> Grouped:
    """Group new events by user. Those with unknown items go along: the learner passes over them."""
    numbers: dict[str, int] = {}
    events: list[list[Interaction]] = []
    places: list[tuple[int, int] | None] = []
    for arrival in arrivals:
        event = arrival.event
        if event is None or arrival.reason is Untrained.DUPLICATE:
            places.append(None)
            continue
        number = numbers.setdefault(event.user_id, len(numbers))
        if number == len(events):
            events.append([])
        places.append((number, len(events[number])))
        events[number].append(Interaction(event.item_id, event.timestamp))
    updates = [UserUpdate(histories.of(user), events[number]) for user, number in numbers.items()]
    return Grouped(updates, places)


def train_batch(
    number: int, arrivals: Sequence[Arrival], learner: Learner, histories: Histories, passed: bool
) -> tuple[StepReport, list[LedgerRow]]:
    """Score and train a batch, then append its events to the histories.

    Args:
        passed: take no step; its rows say `non_finite`.
    """
    grouped = group(arrivals, histories)
    report = StepReport(Verdict.NOTHING)
    if grouped.updates and not passed:
        report = learner.step(grouped.updates, histories.draw)
    refused = Untrained.NON_FINITE if passed or report.verdict is Verdict.NON_FINITE else None
    rows = [
        arrival.row(number, report.ndcg.get(place) if place else None, refused)
        for arrival, place in zip(arrivals, grouped.places, strict=True)
    ]
    for arrival, place in zip(arrivals, grouped.places, strict=True):
        if place is not None and arrival.event is not None:
            histories.add(arrival.event.user_id, Interaction(arrival.event.item_id, arrival.event.timestamp))
    return report, rows
