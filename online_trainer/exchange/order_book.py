"""The orders of late, with their payloads, for those who have still to apply them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from online_trainer.exchange.messages import Order, Pushed

_MAX_BYTES = 256 * 2**20


class OrderBook:
    """The newest orders in memory; the oldest go when payloads take more than `max_bytes`.

    Args:
        index: of the newest order before this book.
    """

    def __init__(self, index: int, max_bytes: int = _MAX_BYTES) -> None:
        self.index = index
        self._max_bytes = max_bytes
        self._bytes = 0
        self._orders: deque[tuple[Order, list[bytes]]] = deque()

    def add(self, order: Order, payloads: list[bytes]) -> None:
        """The next order."""
        assert order.index == self.index + 1, "orders come one after another"  # noqa: S101
        self._orders.append((order, payloads))
        self.index = order.index
        self._bytes += sum(map(len, payloads))
        while self._bytes > self._max_bytes and len(self._orders) > 1:
            _, gone = self._orders.popleft()
            self._bytes -= sum(map(len, gone))

    def prepend(self, orders: list[tuple[Order, list[bytes]]]) -> None:
        """Orders up to the oldest one held, the newest last; gaps before them are left out."""
        oldest = self.index - len(self._orders)
        for order, payloads in reversed(orders):
            if order.index != oldest or self._bytes > self._max_bytes:
                break
            self._orders.appendleft((order, payloads))
            self._bytes += sum(map(len, payloads))
            oldest -= 1

    def behind(
        self, after: int, until: int, wanted: Callable[[Pushed], bool]
    ) -> tuple[list[Order], list[bytes]] | None:
        """Orders `after` + 1 to `until` and the payloads of their `wanted` pushes; None when some are gone."""
        if after == until:
            return [], []
        first = self.index - len(self._orders)
        if not first <= after <= until <= self.index:
            return None
        orders, payloads = [], []
        for place in range(after - first, until - first):
            order, data = self._orders[place]
            orders.append(order)
            payloads += [one for pushed, one in zip(order.pushes, data, strict=True) if wanted(pushed)]
        return orders, payloads
