"""Looking at a batch of events one by one: what is wrong with each, as a sentence and a pointer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from contracts.event import Event
from contracts.problem import FieldError
from gateway.items import Items
from gateway.problems import field_error


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that can't be taken: its index in the batch, the field, and why."""

    index: int
    pointer: str
    detail: str

    def in_batch(self) -> FieldError:
        """With a pointer into the whole body."""
        return FieldError(f"/events/{self.index}{self.pointer}", self.detail)


class EventValidator:
    """Checks events against the contract, the clock and the catalogue.

    Args:
        items: an event of an item that is not among them is refused; with none known, every item passes.
        items_known: whether the items topic has been read; until then every item passes too.
        future_tolerance_seconds: how far ahead of `clock` a timestamp may be.
        clock: unix seconds.
    """

    def __init__(
        self,
        items: Items,
        future_tolerance_seconds: float,
        items_known: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._items = items
        self._items_known = items_known
        self._tolerance = future_tolerance_seconds
        self._clock = clock
        self._decoder = msgspec.json.Decoder(Event)

    def check(self, raw_events: Sequence[msgspec.Raw]) -> tuple[list[Event], list[Rejection]]:
        """The good events in their order, and the others."""
        good, rejected = [], []
        for index, raw in enumerate(raw_events):
            try:
                event = self._decoder.decode(raw)
            except msgspec.ValidationError as error:
                wrong = field_error(error)
                rejected.append(Rejection(index, wrong.pointer, wrong.detail))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                rejected.append(Rejection(index, "", str(error)))
            else:
                problem = self._problem(index, event)
                if problem is None:
                    good.append(event)
                else:
                    rejected.append(problem)
        return good, rejected

    def _problem(self, index: int, event: Event) -> Rejection | None:
        ahead = event.timestamp - self._clock()
        if ahead > self._tolerance:
            detail = (
                f"{event.timestamp} is {ahead:.0f} s in the future, {self._tolerance:.0f} s are allowed: "
                "send unix seconds, UTC"
            )
            return Rejection(index, "/timestamp", detail)
        if event.item_id not in self._items and len(self._items) and self._items_known():
            detail = f"item {event.item_id!r} is not in the catalogue: publish it to the items topic first"
            return Rejection(index, "/item_id", detail)
        return None
