"""`AsynchronousExchange`: a worker's end of the order log.

Pushes go to the shards' owners, and come back as orders with the other workers' payloads, which are applied here as
the owners apply them. Neither waits for any other worker, but for those that the staleness bound protects.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
import zmq
from torch import Tensor

from online_trainer.exchange import payloads
from online_trainer.exchange.layout import cut
from online_trainer.exchange.link import Keys, Link, Work
from online_trainer.exchange.messages import (
    Adopt,
    Done,
    Encoding,
    Fetch,
    Join,
    Joined,
    Leave,
    Measured,
    News,
    Order,
    Part,
    Payloads,
    Push,
    PushCost,
    Pushed,
    Ranges,
    Reason,
    Refused,
    Relay,
    Remembered,
    Reply,
    Request,
    Rule,
    Sync,
    Weights,
)
from online_trainer.exchange.replica import Replica
from online_trainer.exchange.seam import GradientExchange, Traffic
from online_trainer.exchange.tensor_bytes import from_bytes
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.ledger import LedgerRow

_log = structlog.get_logger(__name__)


class PushUndone(Exception):
    """The push was refused for good and left no trace: residual and weights are as before. Plan anew.

    Attributes:
        event_ids: events that are in the weights already.
    """

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.event_ids = refused.event_ids


class WorkerUnfit(Exception):
    """This worker's model, layout or version is not the owners'; the text names both."""


@dataclass(frozen=True)
class Covered:
    """What an update was computed from."""

    ranges: Ranges
    rows: list[LedgerRow]
    waiting: dict[int, int]
    measured: Measured


NOTHING = Covered({}, [], {}, Measured())


@dataclass
class _Pending:
    """A push that is on its way, with what undoes it."""

    push: Push
    parts: list[payloads.Encoded]
    residual_before: Tensor
    encode_seconds: float


class AsynchronousExchange(GradientExchange):
    """Replicas of every shard, and links to their owners.

    Args:
        weights: `[n]` fp32 that learn, changed in place.
        serving: `[n]` fp32, their running average where the rule has one; None keeps one inside.
        model, layout: what the owners must agree with.
        address: of owner 0, which names the others.
        patience_seconds: how long an owner may be away before a call raises OwnerUnavailable.
    """

    def __init__(
        self,
        worker: str,
        weights: Tensor,
        serving: Tensor | None,
        model: str,
        layout: str,
        address: str,
        keys: Keys | None = None,
        patience_seconds: float = 600.0,
        incarnation: int | None = None,
    ) -> None:
        self.worker = worker
        self.incarnation = secrets.randbits(62) if incarnation is None else incarnation
        self.news = News(orders=[], generation=0, partitions={}, batch_events=0)
        """The newest word of the coordinator: assignment, batch size, whether to stop."""
        self.rule = Rule()
        self.added_items: tuple[str, ...] = ()
        """Items that the weights know and the model folder does not, in slot order."""
        self.seq = 0
        self._names = (model, layout)
        self._weights = weights
        self._serving = serving
        self._residual = weights.new_zeros(weights.shape)
        self._keys = keys
        self._patience = patience_seconds
        self._context: zmq.Context[Any] = zmq.Context.instance()
        self._links = [Link(self._context, address, keys)]
        self._replicas: list[Replica] = []
        self._pending: _Pending | None = None
        self._generation = 0
        self._told = Traffic(0, 0, 0.0)
        self.nonfinite = 0
        self.encode_seconds = 0.0
        self.cost: PushCost | None = None
        """Of the last push that was ordered."""
        self.on_wait: Work | None = None
        """Done once a push is on its way, while its answer is awaited: work to hide the exchange behind."""

    @property
    def index(self) -> int:
        """Orders that the weights include."""
        return self._replicas[0].index

    @property
    def residual(self) -> Tensor:
        return self._residual

    @property
    def traffic(self) -> Traffic:
        return Traffic(
            sum(link.sent_bytes for link in self._links),
            sum(link.received_bytes for link in self._links),
            sum(link.waited_seconds for link in self._links),
            sum(link.hidden_seconds for link in self._links),
        )

    def join(self) -> None:
        """Take part: rule, shards and weights become the owners'. Raises WorkerUnfit."""
        joined = self._join()
        self.rule, self.seq = joined.rule, joined.seq
        self._links[1:] = [Link(self._context, address, self._keys) for address in joined.shards[1:]]
        ranges = cut(self._weights.numel(), max(1, len(joined.shards)))
        serving = self._serving if self._serving is not None else self._weights.clone()
        self._replicas = [
            Replica(self._weights[start:stop], self.rule, start, serving[start:stop]) for start, stop in ranges
        ]
        reach(FaultPoint.WORKER_JOINED)
        self._fetch()
        self.refresh()

    def exchange(self, update: Tensor) -> int:
        return self.push(update, NOTHING)

    def push(self, update: Tensor | None, covered: Covered) -> int:
        """`exchange`, and account for the events in it; None for events without a step.

        Raises:
            PushUndone: plan these offsets anew, under `news`.
        """
        self._pending = self._prepare(update, covered)
        reach(FaultPoint.WORKER_ENCODED)
        first = True
        while True:
            try:
                return self._deliver(self._pending, first)
            except _Again:
                first = False

    def refresh(self) -> int:
        self.sync(idle=True)
        return self.index

    def sync(self, idle: bool, waiting: dict[int, int] | None = None) -> News:
        """Take in what is new: orders and assignment. `idle`: nobody is to wait for this worker."""
        while True:
            request = Sync(
                worker=self.worker,
                incarnation=self.incarnation,
                generation=self._generation,
                index=self.index,
                idle=idle,
                waiting=waiting or {},
            )
            reply, data = self._ask(request)
            if isinstance(reply, News):
                return self._take(reply, data, None)
            self._rejoin(reply)

    def adopt(self, partition: int) -> Remembered | None:
        """What is remembered of a partition that `news` has given; None when it has been taken away again."""
        while True:
            request = Adopt(worker=self.worker, incarnation=self.incarnation, partition=partition)
            reply, _ = self._ask(request)
            if isinstance(reply, Remembered):
                reach(FaultPoint.WORKER_ADOPTED)
                return reply
            if isinstance(reply, Refused) and reply.reason is Reason.NOT_YOURS:
                return None
            self._rejoin(reply)

    def leave(self) -> None:
        self._links[0].forget()
        self._links[0].ask(Leave(worker=self.worker, incarnation=self.incarnation), patience_seconds=5.0)
        reach(FaultPoint.WORKER_LEFT)

    def close(self) -> None:
        """Disconnect."""
        for link in self._links:
            link.close()

    def traffic_since(self) -> Traffic:
        """What there was since the last call."""
        now, before = self.traffic, self._told
        self._told = now
        return Traffic(
            now.sent_bytes - before.sent_bytes,
            now.received_bytes - before.received_bytes,
            now.waited_seconds - before.waited_seconds,
            now.hidden_seconds - before.hidden_seconds,
        )

    def _prepare(self, update: Tensor | None, covered: Covered) -> _Pending:
        started = time.perf_counter()
        before = self._residual.clone()
        rule = self._encoding_rule()
        size = self._weights.numel()
        start, stop = 0, size
        if update is not None and self.rule.fragments > 1:
            start, stop = cut(size, self.rule.fragments)[self.seq % self.rule.fragments]
            self._residual[:start] += update[:start]
            self._residual[stop:] += update[stop:]
        parts = []
        for replica in self._replicas:
            first, last = min(max(start, replica.start), replica.stop), max(min(stop, replica.stop), replica.start)
            if update is None or first >= last:
                parts.append(payloads.Encoded(Encoding.NONE, b"", 0))
            else:
                parts.append(payloads.encode(update[first:last], self._residual[first:last], rule))
        self.nonfinite += sum(part.nonfinite for part in parts)
        norm = float(self._residual.norm())
        seconds = time.perf_counter() - started
        self.encode_seconds += seconds
        push = Push(
            worker=self.worker,
            incarnation=self.incarnation,
            seq=self.seq + 1,
            generation=self._generation,
            base=self.index,
            ranges=covered.ranges,
            rows=covered.rows,
            encoding=self._encoding(parts),
            start=start,
            stop=stop if update is not None else start,
            residual_norm=norm,
            waiting=covered.waiting,
            measured=msgspec.structs.replace(covered.measured, cost=self.cost),
        )
        return _Pending(push, parts, before, seconds)

    def _encoding_rule(self) -> Rule:
        """The rule, encoded as the coordinator says."""
        word = self.news.compressed
        return self.rule if word is None else msgspec.structs.replace(self.rule, compressed=word)

    @staticmethod
    def _encoding(parts: list[payloads.Encoded]) -> Encoding:
        return next((part.encoding for part in parts if part.encoding is not Encoding.NONE), Encoding.NONE)

    def _deliver(self, pending: _Pending, first: bool) -> int:
        """Store the other shards' parts, push, take the answer. Raises _Again to be called again, PushUndone."""
        sent_at = time.perf_counter()
        for number, part in enumerate(pending.parts[1:], start=1):
            if part.data:
                self._store(number, pending.push, part)
        reach(FaultPoint.WORKER_PARTS_STORED)
        link = self._links[0]
        link.send(pending.push, [pending.parts[0].data] if pending.parts[0].data else [])
        reach(FaultPoint.WORKER_PUSHED)
        reply, data = link.receive(self._patience, self.on_wait if first else None)
        reach(FaultPoint.WORKER_ANSWERED)
        if isinstance(reply, News):
            self.seq = pending.push.seq
            answered_at = time.perf_counter()
            self._take(reply, data, pending)
            self._pending = None
            if pending.push.encoding is not Encoding.NONE:
                self.cost = PushCost(
                    compressed=pending.push.encoding is Encoding.COMPRESSED,
                    encode_seconds=pending.encode_seconds,
                    link_seconds=max(0.0, answered_at - sent_at - reply.held_seconds),
                    decode_seconds=time.perf_counter() - answered_at,
                )
            assert reply.ordered is not None, "the answer to a push names its order"  # noqa: S101
            return reply.ordered
        self._refused(reply, pending)
        raise _Again

    def _refused(self, reply: Reply, pending: _Pending) -> None:
        """Get ready to send again, or raise PushUndone."""
        if not isinstance(reply, Refused):
            raise WorkerUnfit(f"{type(reply).__name__} is no answer to a push: is this owner of another version?")
        if reply.reason is Reason.UNKNOWN_MEMBER:
            self._rejoin(reply)
        elif reply.reason in (Reason.CORRUPT, Reason.STALE):
            _log.warning("push_sent_again", reason=reply.reason.value, detail=reply.detail)
            self._return(pending)
            self.sync(idle=False)
            update = self._weights.new_zeros(self._weights.shape) if pending.push.stop else None
            covered = Covered(pending.push.ranges, pending.push.rows, pending.push.waiting, pending.push.measured)
            self._pending = None
            again = self._prepare(update, covered)
            pending.push, pending.parts, pending.encode_seconds = again.push, again.parts, again.encode_seconds
            self._pending = pending
        elif reply.reason in (Reason.NOT_YOURS, Reason.DUPLICATE, Reason.SEQUENCE):
            _log.warning("push_undone", reason=reply.reason.value, detail=reply.detail)
            self._residual.copy_(pending.residual_before)
            self._pending = None
            if reply.reason is Reason.SEQUENCE:
                self.incarnation, self.seq = secrets.randbits(62), 0
                self._join()
            reach(FaultPoint.WORKER_UNDONE)
            raise PushUndone(reply)
        else:
            raise WorkerUnfit(reply.detail)

    def _return(self, pending: _Pending) -> None:
        """Put what was sent back into the residual: nothing of the gradient is lost."""
        for replica, part in zip(self._replicas, pending.parts, strict=True):
            first = max(pending.push.start, replica.start)
            last = min(pending.push.stop, replica.stop)
            if first < last and part.data:
                payloads.add(part.encoding, part.data, 1.0, self._residual[first:last])

    def _store(self, shard: int, push: Push, part: payloads.Encoded) -> None:
        replica = self._replicas[shard]
        message = Part(
            worker=self.worker,
            incarnation=self.incarnation,
            seq=push.seq,
            start=max(push.start, replica.start),
            stop=min(push.stop, replica.stop),
            encoding=part.encoding,
        )
        reply, _ = self._links[shard].ask(message, [part.data], self._patience)
        if not isinstance(reply, Done):
            raise WorkerUnfit(f"shard {shard} did not store a part: {reply}")

    def _take(self, news: News, data: list[bytes], mine: _Pending | None) -> News:
        """Apply the orders of a reply, on every shard."""
        self.news = news
        self._generation = news.generation
        if news.gap:
            self._fetch()
            return news
        orders = [order for order in news.orders if order.index > self.index]
        incoming = self._split(news.orders, data)
        for order in orders:
            found = [
                self._own(pushed, 0, mine) or incoming.get((order.index, n), b"")
                for n, pushed in enumerate(order.pushes)
            ]
            self._replicas[0].apply(order, found)
            if order.added is not None:
                self.added_items += order.added.item_ids
        if orders:
            for shard in range(1, len(self._replicas)):
                self._catch_up(shard, orders, mine)
            reach(FaultPoint.WORKER_APPLIED)
        return news

    def _split(self, orders: list[Order], data: list[bytes]) -> dict[tuple[int, int], bytes]:
        """(order, place in it) → payload, for those that came along."""
        rest = iter(data)
        return {
            (order.index, place): next(rest)
            for order in orders
            for place, pushed in enumerate(order.pushes)
            if not self._is_mine(pushed) and pushed.encoding is not Encoding.NONE
        }

    def _is_mine(self, pushed: Pushed) -> bool:
        return (pushed.worker, pushed.incarnation) == (self.worker, self.incarnation)

    def _own(self, pushed: Pushed, shard: int, mine: _Pending | None) -> bytes:
        if mine is not None and self._is_mine(pushed) and pushed.seq == mine.push.seq:
            return mine.parts[shard].data
        return b""

    def _catch_up(self, shard: int, orders: list[Order], mine: _Pending | None) -> None:
        replica = self._replicas[shard]
        fresh = [order for order in orders if order.index > replica.index]
        if not fresh:
            return
        request = Relay(worker=self.worker, incarnation=self.incarnation, after=replica.index, until=fresh[-1].index)
        reply, data = self._links[shard].ask(request, (), self._patience)
        if not isinstance(reply, Payloads):
            self._fetch_shard(shard, at_least=fresh[-1].index)
            return
        incoming = self._split(fresh, data)
        for order in fresh:
            found = [
                self._own(pushed, shard, mine) or incoming.get((order.index, n), b"")
                for n, pushed in enumerate(order.pushes)
            ]
            replica.apply(order, found)

    def _fetch(self) -> None:
        """Take the owners' weights as they are, then bring every shard to one index."""
        for shard in range(len(self._replicas)):
            self._fetch_shard(shard, 0)
        while len({replica.index for replica in self._replicas}) > 1:
            newest = max(replica.index for replica in self._replicas)
            for shard, replica in enumerate(self._replicas):
                if replica.index < newest:
                    self._fetch_shard(shard, newest)
        reach(FaultPoint.WORKER_WEIGHTS_TAKEN)

    def _fetch_shard(self, shard: int, at_least: int) -> None:
        reply, data = self._links[shard].ask(Fetch(index=at_least), (), self._patience)
        if not isinstance(reply, Weights):
            raise WorkerUnfit(f"shard {shard} gives no weights: {reply}")
        own = self._replicas[shard].state()
        tensors = {name: from_bytes(one, own[name].dtype) for name, one in zip(reply.names, data, strict=True)}
        self._replicas[shard].load_state(tensors)
        if not shard:
            self.added_items = reply.added_items

    def _join(self) -> Joined:
        model, layout = self._names
        request = Join(worker=self.worker, incarnation=self.incarnation, model=model, layout=layout)
        reply, _ = self._ask(request)
        if isinstance(reply, Joined):
            return reply
        raise WorkerUnfit(reply.detail if isinstance(reply, Refused) else f"{type(reply).__name__}: no welcome")

    def _rejoin(self, reply: Reply) -> None:
        """The coordinator does not know this worker (any more): it was silent, or the coordinator is new."""
        if not isinstance(reply, Refused) or reply.reason is not Reason.UNKNOWN_MEMBER:
            raise WorkerUnfit(reply.detail if isinstance(reply, Refused) else f"{type(reply).__name__}: unexpected")
        _log.info("joining_again", worker=self.worker)
        self._generation = 0
        self._join()
        # A coordinator that could not write (a full disk) may have come back with another past.
        self._fetch()

    def _ask(self, request: Request) -> tuple[Reply, list[bytes]]:
        return self._links[0].ask(request, (), self._patience)


class _Again(Exception):
    """Deliver the pending push again."""


__all__ = ["AsynchronousExchange", "Covered", "PushUndone", "WorkerUnfit"]
