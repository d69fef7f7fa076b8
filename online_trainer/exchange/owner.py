"""Owner 0: keeps shard 0, and coordinates. It orders pushes, makes them durable, applies and relays them.

One turn: take every request that waits → order what may be ordered → one synced write → apply → answer. No socket in
here: `serve.py` brings requests and takes replies away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from online_trainer.exchange import frames, payloads
from online_trainer.exchange.choice import EncodingChoice
from online_trainer.exchange.growth import GroupGrowth
from online_trainer.exchange.messages import (
    PROTOCOL,
    Adopt,
    Done,
    Encoding,
    Fetch,
    Follow,
    Join,
    Joined,
    Leave,
    Measured,
    News,
    Order,
    Push,
    Pushed,
    Reason,
    Refused,
    Remembered,
    Reply,
    Request,
    Rule,
    Sync,
    Weights,
)
from online_trainer.exchange.metrics import ExchangeMetrics
from online_trainer.exchange.order_book import OrderBook
from online_trainer.exchange.replica import Replica
from online_trainer.exchange.sequencer import Sequencer
from online_trainer.exchange.tensor_bytes import to_bytes
from online_trainer.exchange.write_ahead import Entry, Ordered, WriteAheadLog
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.ledger import Untrained
from online_trainer.metrics import TrainerMetrics
from online_trainer.plan import BatchPlan
from online_trainer.progress import Progress

Sender = bytes
Send = Callable[[Sender, frames.Frames], None]
_log = structlog.get_logger(__name__)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must agree with: the model's name, its layout's digest, the rule, and where owners listen."""

    model: str
    layout: str
    rule: Rule
    shards: list[str]


class Owner:
    """For one thread.

    Args:
        ends: with `stop_at_end`, partition → offset at which training is over.
    """

    def __init__(
        self,
        identity: Identity,
        replica: Replica,
        progress: Progress,
        log: WriteAheadLog,
        sequencer: Sequencer,
        metrics: TrainerMetrics,
        exchange: ExchangeMetrics,
        send: Send,
        ends: dict[int, int] | None = None,
    ) -> None:
        self.identity = identity
        self.replica = replica
        self.progress = progress
        self.sequencer = sequencer
        self.metrics = metrics
        self.exchange = exchange
        self.book = OrderBook(replica.index)
        self.leaving = False
        """Whether workers are to leave."""
        self.stopping = False
        """Whether the other owners are to end, too."""
        self.cut = 0
        """Order at which other shards are to write their next checkpoint; 0 for none."""
        self.cuts: dict[int, int] = {}
        """Shard → order of its newest checkpoint, as far as is known."""
        self.on_piece: Callable[[int, int, bytes], None] = lambda shard, index, data: None
        """Told the weights that another shard serves at a cut: shard, order, fp32 bytes."""
        self.growth: GroupGrowth | None = None
        """Whence new items come; None adds none."""
        self._log = log
        self._send = send
        self._ends = ends
        self.choice = EncodingChoice(identity.rule.compressed) if identity.rule.choose else None
        self._callers: dict[str, tuple[Sender, int, int, float]] = {}
        """Worker → who waits for the answer to its push, the request's number, the worker's index, and since when."""
        self._payloads: dict[str, bytes] = {}
        self._full_shards: set[int] = set()
        self._followers: list[tuple[Sender, int, Follow]] = []
        self._moves = 0

    @property
    def finished(self) -> bool:
        """Whether everything up to `ends` is in the weights."""
        return self._ends is not None and all(
            self.sequencer.offsets.get(partition, 0) >= end for partition, end in self._ends.items()
        )

    def receive(self, sender: Sender, received: Sequence[bytes]) -> None:
        """Take one request; it is answered here, or by `settle`. Bytes that are no request are counted and dropped."""
        try:
            number, request, data = frames.decode_request(received)
        except frames.DamagedPayload as error:
            self._refuse(sender, error.number, Refused(reason=Reason.CORRUPT, detail=str(error)))
        except frames.FrameError as error:
            self.exchange.refused.labels(Reason.CORRUPT.value).inc()
            _log.warning("request_damaged", error=str(error))
        else:
            self._handle(sender, number, request, data)

    def settle(self) -> int:
        """Order, sync, apply and answer what can be; returns how many orders were made."""
        batch = [self._entry(order, pushes) for order, pushes in self.sequencer.ready()]
        if batch:
            ordered_at = time.monotonic()
            reach(FaultPoint.OWNER_ORDERED)
            self._keep(batch)
            reach(FaultPoint.ORDER_SYNCED)
            for ordered in batch:
                self.apply(ordered)
                self._measure(ordered)
            reach(FaultPoint.OWNER_APPLIED)
            for ordered in batch:
                for push in ordered.entry.pushes:
                    self._answer_push(push.worker, ordered.entry.order.index, ordered_at)
        for push, refused in self.sequencer.refused():
            self._payloads.pop(push.worker, None)
            if (caller := self._callers.pop(push.worker, None)) is not None:
                self._refuse(caller[0], caller[1], refused)
        self._answer_followers()
        return len(batch)

    def grow(self) -> bool:
        """Order that the next new items are added, if there are any; whether there were."""
        added = self.growth.next(self.progress.added_items) if self.growth is not None else None
        if added is None:
            return False
        order = Order(index=self.sequencer.index + 1, pushes=[], added=added)
        ordered = Ordered(Entry(order=order, pushes=[], sizes=[]), [])
        self._keep([ordered])
        reach(FaultPoint.ITEMS_JOURNALLED)
        self.sequencer.index = order.index
        self.apply(ordered)
        _log.info("items_added", order=order.index, items=len(added.item_ids))
        reach(FaultPoint.ITEMS_ADDED)
        return True

    def _keep(self, batch: list[Ordered]) -> None:
        """Make orders durable, or go on without when the disk is full."""
        if self._log.append(batch):
            self.exchange.unsynced.set(0)
            self.metrics.disk_full.set(0)
        else:
            self.exchange.unsynced.inc(len(batch))
            self.metrics.disk_full.set(1)
            _log.error("disk_full", what="the order log", effect="training goes on, publishing stops")

    def replay(self, ordered: Ordered, passed: bool) -> None:
        """Count an order read back from the log. One that is `passed` led to weights that are not finite: its events
        are taken for untrained."""
        for push in ordered.entry.pushes:
            self.sequencer.take(ordered.entry.order, push)
        self.sequencer.index = ordered.entry.order.index
        self.apply(without_updates(ordered) if passed else ordered)

    def apply(self, ordered: Ordered) -> None:
        """Count an order in weights, offsets, ledger and items."""
        order, pushes = ordered.entry.order, ordered.entry.pushes
        self.replica.apply(order, ordered.payloads)
        self.book.add(order, ordered.payloads)
        rows = [msgspec.structs.replace(row, batch=order.index) for push in pushes for row in push.rows]
        self.progress.users.take_all(rows)
        ranges = {partition: given for push in pushes for partition, given in push.ranges.items()}
        self.progress.advance(BatchPlan(number=order.index, ranges=ranges), rows)
        if order.added is not None:
            self.progress.added_items += order.added.item_ids
        for push in pushes:
            self.progress.applied[push.worker] = (push.incarnation, push.seq, order.index)

    def tick(self, now: float) -> None:
        """New items, leases, balance and gauges; a few times a second."""
        self.grow()
        lost_before = len(self.sequencer.lost_residuals)
        for worker in self.sequencer.expire(now):
            self._callers.pop(worker, None)
            self._payloads.pop(worker, None)
        for _, norm in self.sequencer.lost_residuals[lost_before:]:
            self.exchange.lost.inc()
            self.exchange.lost_residual.set(norm)
        self.sequencer.rebalance(now)
        members = self.sequencer.members
        self.exchange.workers.set(len(members))
        for name, member in members.items():
            self.exchange.speed.labels(name).set(member.speed)
            self.exchange.batch_events.labels(name).set(member.batch_events)
        if (moves := self.sequencer.assignment.moves) > self._moves:
            self.exchange.moves.inc(moves - self._moves)
            _log.info("partitions_moved", holders=self.sequencer.assignment.holders)
            self._moves = moves
            reach(FaultPoint.OWNER_MOVED)
        self.metrics.lag_events.set(sum(sum(member.waiting.values()) for member in members.values()))

    def _handle(self, sender: Sender, number: int, request: Request, data: frames.Frames) -> None:
        now = time.monotonic()
        match request:
            case Join():
                self._reply(sender, number, self._join(request, now))
                reach(FaultPoint.OWNER_WELCOMED)
            case Push():
                self._push(sender, number, request, data, now)
            case Sync():
                member = self.sequencer.hear(request.worker, request.incarnation, request.generation, now)
                if isinstance(member, Refused):
                    self._refuse(sender, number, member)
                    return
                member.waiting = dict(request.waiting)
                self._news(sender, number, request.worker, request.incarnation, request.index, idle=request.idle)
            case Adopt():
                self._reply(sender, number, self._remembered(request, now))
                reach(FaultPoint.OWNER_HANDED_OVER)
            case Fetch():
                self._send_weights(sender, number)
                reach(FaultPoint.OWNER_WEIGHTS_SENT)
            case Follow():
                self._follow(sender, number, request, data)
            case Leave():
                leaving = self.sequencer.members.get(request.worker)
                if leaving is not None and leaving.incarnation == request.incarnation:
                    self.sequencer.leave(request.worker)
                    self.sequencer.rebalance(now)
                self._reply(sender, number, Done())
                reach(FaultPoint.OWNER_LEFT)
            case _:
                detail = f"{type(request).__name__} is for another shard's owner"
                self._refuse(sender, number, Refused(reason=Reason.LAYOUT, detail=detail))

    def _join(self, request: Join, now: float) -> Reply:
        mine = (self.identity.model, self.identity.layout, PROTOCOL)
        theirs = (request.model, request.layout, request.protocol)
        if mine != theirs:
            detail = (
                f"worker {request.worker} trains {theirs[0]} with layout {theirs[1]}, protocol {theirs[2]}; this owner "
                f"keeps {mine[0]} with layout {mine[1]}, protocol {mine[2]}: start it with the owner's model"
            )
            return self._counted(Refused(reason=Reason.LAYOUT, detail=detail))
        member = self.sequencer.join(request.worker, request.incarnation, now)
        _log.info("worker_joined", worker=request.worker, seq=member.seq)
        reach(FaultPoint.OWNER_JOINED)
        return Joined(rule=self.identity.rule, seq=member.seq, shards=self.identity.shards)

    def _push(self, sender: Sender, number: int, push: Push, data: frames.Frames, now: float) -> None:
        reach(FaultPoint.OWNER_PUSH_RECEIVED)
        start, stop = max(push.start, self.replica.start), min(push.stop, self.replica.stop)
        payload = data[0] if data else b""
        try:
            payloads.check(push.encoding, payload, max(0, stop - start))
        except payloads.DamagedUpdate as error:
            self._refuse(sender, number, Refused(reason=Reason.CORRUPT, detail=str(error)))
            return
        reach(FaultPoint.OWNER_PUSH_CHECKED)
        verdict = self.sequencer.submit(push, now)
        if isinstance(verdict, Refused):
            self._refuse(sender, number, verdict)
            return
        self._callers[push.worker] = (sender, number, push.base, now)
        if verdict is not None:
            self._answer_push(push.worker, verdict, now)
        else:
            self._payloads[push.worker] = payload

    def _entry(self, order: Order, pushes: list[Push]) -> Ordered:
        data = [self._payloads.pop(push.worker) for push in pushes]
        return Ordered(Entry(order=order, pushes=pushes, sizes=[len(one) for one in data]), data)

    def _answer_push(self, worker: str, index: int, ordered_at: float) -> None:
        caller = self._callers.pop(worker, None)
        member = self.sequencer.members.get(worker)
        if caller is not None and member is not None:
            sender, number, base, since = caller
            held = ordered_at - since
            self._news(sender, number, worker, member.incarnation, base, idle=False, ordered=index, held_seconds=held)
            reach(FaultPoint.OWNER_ANSWERED)

    def _news(
        self,
        sender: Sender,
        number: int,
        worker: str,
        incarnation: int,
        after: int,
        idle: bool,
        ordered: int | None = None,
        held_seconds: float = 0.0,
    ) -> None:
        def wanted(pushed: Pushed) -> bool:
            others = (pushed.worker, pushed.incarnation) != (worker, incarnation)
            return others and pushed.encoding is not Encoding.NONE

        found = self.book.behind(after, self.book.index, wanted)
        self.sequencer.told(worker, idle)
        orders, data = found if found is not None else ([], [])
        news = News(
            orders=orders,
            generation=self.sequencer.assignment.generation,
            partitions={} if self.leaving else self.sequencer.partitions_of(worker),
            batch_events=self.sequencer.members[worker].batch_events,
            ordered=ordered,
            gap=found is None,
            stop=self.leaving,
            compressed=self.choice.compressed if self.choice is not None else None,
            held_seconds=held_seconds,
        )
        self._reply(sender, number, news, data)

    def _remembered(self, request: Adopt, now: float) -> Reply:
        member = self.sequencer.hear(request.worker, request.incarnation, 0, now)
        if isinstance(member, Refused):
            return self._counted(member)
        if request.partition not in self.sequencer.assignment.held_by(request.worker):
            detail = f"partition {request.partition} is not {request.worker}'s"
            return self._counted(Refused(reason=Reason.NOT_YOURS, detail=detail))
        users = self.progress.users
        return Remembered(
            partition=request.partition,
            offset=self.sequencer.offsets[request.partition],
            histories={
                user: [(seen.item_id, seen.timestamp) for seen in users.histories.of(user)]
                for user, partition in users.partition_of.items()
                if partition == request.partition
            },
            seen=users.seen.of(request.partition),
        )

    def _send_weights(self, sender: Sender, number: int) -> None:
        state = self.replica.state()
        message = Weights(
            index=self.replica.index,
            start=self.replica.start,
            stop=self.replica.stop,
            names=list(state),
            added_items=self.progress.added_items,
        )
        self._reply(sender, number, message, [to_bytes(tensor) for tensor in state.values()])

    def _follow(self, sender: Sender, number: int, request: Follow, data: frames.Frames) -> None:
        if data:
            self.cuts[request.shard] = request.cut
            self.on_piece(request.shard, request.cut, data[0])
        self._followers = [one for one in self._followers if one[2].shard != request.shard]
        self._followers.append((sender, number, request))
        (self._full_shards.add if request.full else self._full_shards.discard)(request.shard)
        self.exchange.full_shards.set(len(self._full_shards))
        self._answer_followers()

    def _answer_followers(self) -> None:
        """Tell other shards' owners what is new; who has everything waits."""
        for sender, number, request in list(self._followers):
            if request.index >= self.book.index and self.cut <= max(request.cut, request.kept) and not self.stopping:
                continue
            self._followers.remove((sender, number, request))
            found = self.book.behind(request.index, self.book.index, lambda pushed: False)
            orders = found[0] if found is not None else []
            news = News(
                orders=orders, generation=0, partitions={}, batch_events=0, gap=found is None, cut=self.cut,
                stop=self.stopping,
            )  # fmt: skip
            self._reply(sender, number, news)

    def _measure(self, ordered: Ordered) -> None:
        for pushed, push in zip(ordered.entry.order.pushes, ordered.entry.pushes, strict=True):
            measured = push.measured
            self.exchange.count(pushed, measured)
            self._choose(pushed.worker, measured)
            self.metrics.steps.inc(push.encoding is not Encoding.NONE)
            self.metrics.examples.inc(push.examples)
            self.metrics.ndcg_sum.inc(measured.ndcg_sum)
            self.metrics.lag_seconds.set(measured.lag_seconds)
            self.metrics.non_finite.inc(measured.refused_batches)
            if push.encoding is not Encoding.NONE:
                self.metrics.loss.set(measured.loss)
            for reason, count in measured.untrained.items():
                self.metrics.untrained.labels(reason).inc(count)

    def _choose(self, worker: str, measured: Measured) -> None:
        """Let what a push took count for the choice of the encoding."""
        if self.choice is None or (cost := measured.cost) is None:
            return
        if self.choice.record(worker, cost.compressed, cost.seconds, len(self.sequencer.members)):
            seconds = {"dense": self.choice.seconds(False), "compressed": self.choice.seconds(True)}
            _log.info("encoding_chosen", encoding="compressed" if self.choice.settled else "dense", seconds=seconds)
        self.exchange.show(self.choice)

    def _counted(self, refused: Refused) -> Refused:
        self.exchange.refused.labels(refused.reason.value).inc()
        _log.warning("refused", reason=refused.reason.value, detail=refused.detail)
        return refused

    def _refuse(self, sender: Sender, number: int, refused: Refused) -> None:
        self._reply(sender, number, self._counted(refused))

    def _reply(self, sender: Sender, number: int, message: Reply, data: Sequence[bytes] = ()) -> None:
        self._send(sender, frames.encode(number, message, data))


def without_updates(ordered: Ordered) -> Ordered:
    """The order with its updates left out and its events marked as not trained."""
    order = msgspec.structs.replace(
        ordered.entry.order,
        pushes=[msgspec.structs.replace(pushed, encoding=Encoding.NONE) for pushed in ordered.entry.order.pushes],
    )
    pushes = [
        msgspec.structs.replace(
            push,
            rows=[
                msgspec.structs.replace(row, trained=False, reason=Untrained.NON_FINITE) if row.trained else row
                for row in push.rows
            ],
        )
        for push in ordered.entry.pushes
    ]
    return Ordered(Entry(order=order, pushes=pushes, sizes=[0] * len(pushes)), [b""] * len(pushes))
