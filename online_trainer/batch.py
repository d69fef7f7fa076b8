"""One batch: arrivals grouped by user, one step, one ledger row each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from online_trainer.admission import Arrival
from online_trainer.learner import Learner, StepReport, Verdict
from online_trainer.ledger import LedgerRow, Untrained
from online_trainer.users import Histories
from recommender.examples import Interaction, OnlineBatch, UserUpdate

_new = tuple.__new__
"""A named tuple's own constructor takes 0.2 µs more, several times an event."""


class Grouped(NamedTuple):
    """A batch as the learner takes it.

    Attributes:
        updates: one for each user, in order of first appearance.
        places: for each arrival, its (user, position) in `updates`; None for one that is no new event.
    """

    updates: list[UserUpdate]
    places: list[tuple[int, int] | None]


class Prepared(NamedTuple):
    """What can be made of a batch before the weights are there that it is trained on."""

    grouped: Grouped
    batch: OnlineBatch


def prepare(arrivals: Iterable[Arrival], learner: Learner, histories: Histories) -> Prepared:
    """Group a batch and build its tensors; changes nothing. Good for as long as the histories are as they are."""
    grouped = group(arrivals, histories)
    return Prepared(grouped, learner.batch(grouped.updates))


def group(arrivals: Iterable[Arrival], histories: Histories) -> Grouped:
    """Group new events by user. Those with unknown items go along: the learner passes over them."""
    numbers: dict[str, int] = {}
    events: list[list[Interaction]] = []
    places: list[tuple[int, int] | None] = []
    for _, event, reason in arrivals:
        if event is None or reason is Untrained.DUPLICATE:
            places.append(None)
            continue
        number = numbers.get(event.user_id)
        if number is None:
            number = numbers[event.user_id] = len(events)
            events.append([])
        own = events[number]
        places.append((number, len(own)))
        own.append(Interaction(event.item_id, event.timestamp))
    pasts = histories.of_all(numbers)
    return Grouped(list(map(_new, repeat(UserUpdate), zip(pasts, events, strict=True))), places)


def remember(arrivals: Iterable[Arrival], grouped: Grouped, histories: Histories) -> None:
    """Append a batch's new events to the histories, in the order of their arrival."""
    updates, add = grouped.updates, histories.add
    for (_, event, _), place in zip(arrivals, grouped.places, strict=True):
        if place is not None and event is not None:
            user, position = place
            add(event.user_id, updates[user][1][position])


def train_batch(
    number: int,
    arrivals: Sequence[Arrival],
    learner: Learner,
    histories: Histories,
    passed: bool,
    prepared: Prepared | None = None,
) -> tuple[StepReport, list[LedgerRow]]:
    """Score and train a batch, then append its events to the histories.

    Args:
        passed: take no step; its rows say `non_finite`.
        prepared: of these arrivals and histories, where that has been done already.
    """
    grouped = prepared.grouped if prepared else group(arrivals, histories)
    report = StepReport(Verdict.NOTHING)
    if (grouped.updates or learner.attends) and not passed:
        report = learner.step(grouped.updates, histories.draw, prepared.batch if prepared else None)
    refused = Untrained.NON_FINITE if passed or report.verdict is Verdict.NON_FINITE else None
    rows = [
        arrival.row(number, report.ndcg.get(place) if place else None, refused)
        for arrival, place in zip(arrivals, grouped.places, strict=True)
    ]
    remember(arrivals, grouped, histories)
    return report, rows
