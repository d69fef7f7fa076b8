"""Owners of the other shards: they store parts, follow the coordinator's orders, and apply their own part of each.

Shard k's state is a function of its checkpoint, its stored parts and the coordinator's orders. It writes a checkpoint
where the coordinator cuts, and gives the weights it serves there for the release.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
import zmq

from online_trainer.checkpoint import CheckpointState
from online_trainer.exchange import frames, payloads
from online_trainer.exchange.link import Link
from online_trainer.exchange.messages import (
    Done,
    Encoding,
    Fetch,
    Follow,
    News,
    Order,
    Part,
    Payloads,
    Pushed,
    Reason,
    Refused,
    Relay,
    Reply,
    Weights,
)
from online_trainer.exchange.order_book import OrderBook
from online_trainer.exchange.replica import Replica
from online_trainer.exchange.shard_disk import HeldPart, ShardDisk
from online_trainer.exchange.tensor_bytes import to_bytes
from online_trainer.exchange.write_ahead import LogDamaged
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.patience import Patience

_POLL_MS = 50
_log = structlog.get_logger(__name__)


class ShardOwner:
    """Owner of shard `number` (1, 2, …). For one thread.

    Args:
        replica: its elements, as the model's folder has them; the newest checkpoint replaces them.
        link: to the coordinator.
    """

    def __init__(
        self, number: int, replica: Replica, folder: Path, link: Link, send: Callable[[bytes, frames.Frames], None]
    ) -> None:
        self.replica = replica
        self.stopped = False
        self._number = number
        self._link = link
        self._send = send
        self._disk = ShardDisk(folder, number)
        self._cut = 0
        """Order of the newest checkpoint whose weights the coordinator has been given since this start."""
        self._saved = self._disk.newest()
        if self._saved is not None:
            replica.load_state(self._saved[1])
        self._written = self._saved[0].number if self._saved else 0
        self._book = OrderBook(replica.index)
        self._applied: list[Pushed] = []
        self._waiting: list[tuple[bytes, int, Fetch | Relay]] = []
        self._follow()

    def receive(self, requests: Sequence[tuple[bytes, Sequence[bytes]]]) -> None:
        """Take requests of workers; parts among them are made durable as one."""
        parts: list[HeldPart] = []
        for sender, received in requests:
            try:
                number, request, data = frames.decode_request(received)
            except frames.DamagedPayload as error:
                refused = Refused(reason=Reason.CORRUPT, detail=str(error))
                self._reply(sender, error.number, refused)
                continue
            except frames.FrameError as error:
                _log.warning("request_damaged", error=str(error))
                continue
            match request:
                case Part():
                    self._take(sender, number, request, data, parts)
                case Fetch() | Relay():
                    self._waiting.append((sender, number, request))
                case _:
                    detail = f"{type(request).__name__} is for the coordinator, this is shard {self._number}"
                    self._reply(sender, number, Refused(reason=Reason.LAYOUT, detail=detail))
        if parts:
            reach(FaultPoint.SHARD_PART_RECEIVED)
            self._disk.hold(parts)
            self._store()

    def turn(self) -> None:
        """Apply what the coordinator has ordered, cut where it says, answer who waited for that."""
        if (answer := self._link.look()) is not None:
            news, _ = answer
            if not isinstance(news, News):
                raise LogDamaged(f"the coordinator answers {news}: is it of another version?")
            if news.gap:
                raise LogDamaged(
                    f"shard {self._number} stands at order {self.replica.index}, which the coordinator has no longer; "
                    "restore this shard's folder"
                )
            self._piece = b""
            self._advance(news)
            self.stopped = news.stop
        if self._write_what_waits() or answer is not None:
            self._follow()
        self._answer()

    def close(self) -> None:
        """Let go of files and the link."""
        self._disk.close()
        self._link.close()

    def _take(
        self,
        sender: bytes,
        number: int,
        part: Part,
        data: frames.Frames,
        parts: list[HeldPart],
    ) -> None:
        payload = data[0] if data else b""
        try:
            payloads.check(part.encoding, payload, part.stop - part.start)
            if not self.replica.start <= part.start <= part.stop <= self.replica.stop:
                raise payloads.DamagedUpdate(f"elements {part.start} to {part.stop} are not shard {self._number}'s")
        except payloads.DamagedUpdate as error:
            self._reply(sender, number, Refused(reason=Reason.CORRUPT, detail=str(error)))
        else:
            parts.append(HeldPart(sender, number, part, payload))

    def _store(self) -> None:
        """Make parts durable, as far as the disk has room, and tell who sent them."""
        if stored := self._disk.store():
            for sender, number, _, _ in stored:
                self._reply(sender, number, Done())
            reach(FaultPoint.SHARD_PART_ANSWERED)

    def _write_what_waits(self) -> bool:
        """Whether that has brought a piece for the coordinator, or the disk has become full or no longer is."""
        self._store()
        saved = self._save()
        return self._disk.settle() or saved

    def _advance(self, news: News) -> None:
        orders = [order for order in news.orders if order.index > self.replica.index]
        for order in orders:
            if self._cut < news.cut == self.replica.index:
                self._write_cut()
            data = [self._data(pushed) for pushed in order.pushes]
            self.replica.apply(order, data)
            self._book.add(order, data)
            self._applied += order.pushes
        if orders:
            reach(FaultPoint.SHARD_APPLIED)
        if self._cut < news.cut == self.replica.index:
            self._write_cut()

    def _data(self, pushed: Pushed) -> bytes:
        """The stored part of an ordered push."""
        first, last = max(pushed.start, self.replica.start), min(pushed.stop, self.replica.stop)
        if pushed.encoding is Encoding.NONE or first >= last:
            return b""
        found = self._disk.part_of(pushed)
        if found is None:
            raise LogDamaged(f"shard {self._number} lacks part {pushed.seq} of {pushed.worker}; restore its folder")
        return found

    def _write_cut(self) -> None:
        """A checkpoint at this order, unless the newest is. Once on the disk, its weights go to the coordinator."""
        index = self.replica.index
        if self._saved is not None and self._saved[0].plans_applied == index:
            reach(FaultPoint.SHARD_CUT_WRITTEN)
            self._cut, self._piece = index, to_bytes(self.replica.serving)
            return
        if self._disk.kept == index:
            return
        state = CheckpointState(
            number=self._written + 1, version=1, plans_applied=index, offsets={}, history_bytes=0, ledger_bytes=0,
            events_trained=0, watermark=None,
        )  # fmt: skip
        self._disk.keep(state, {name: tensor.clone() for name, tensor in self.replica.state().items()})
        self._kept_piece = to_bytes(self.replica.serving)
        self._save()

    def _save(self) -> bool:
        """Write the checkpoint that is kept; whether there was one, and room for it."""
        saved = self._disk.save()
        if saved is None:
            return False
        # Parts of the orders before the last checkpoint but one are never read again.
        before = self._saved[0].plans_applied if self._saved else 0
        if self._disk.forget(self._applied[: self._count(before)]):
            self._applied = self._applied[self._count(before) :]
        self._saved, self._written = saved, saved[0].number
        self._cut, self._piece = saved[0].plans_applied, self._kept_piece
        return True

    def _count(self, index: int) -> int:
        """How many of `_applied` came with orders up to `index`."""
        found = self._book.behind(index, self.replica.index, lambda pushed: False)
        later = sum(len(order.pushes) for order in found[0]) if found is not None else len(self._applied)
        return max(0, len(self._applied) - later)

    def _follow(self) -> None:
        """Ask for news, in place of what was asked before. A piece goes along until an answer shows it was heard."""
        piece = [self._piece] if self._cut and self._piece else []
        disk = self._disk
        follow = Follow(
            shard=self._number, index=self.replica.index, cut=self._cut, kept=disk.kept or 0, full=disk.full
        )
        self._link.send(follow, piece)
        if piece:
            reach(FaultPoint.SHARD_CUT_SENT)

    _piece: bytes = b""
    _kept_piece: bytes = b""

    def _answer(self) -> None:
        for sender, number, request in list(self._waiting):
            if isinstance(request, Fetch):
                if self.replica.index < request.index:
                    continue
                state = self.replica.state()
                message = Weights(
                    index=self.replica.index, start=self.replica.start, stop=self.replica.stop, names=list(state)
                )
                self._reply(sender, number, message, [to_bytes(tensor) for tensor in state.values()])
            else:
                if self._book.index < request.until:
                    continue
                self._relay(sender, number, request)
            self._waiting.remove((sender, number, request))

    def _relay(self, sender: bytes, number: int, request: Relay) -> None:
        def wanted(pushed: Pushed) -> bool:
            others = (pushed.worker, pushed.incarnation) != (request.worker, request.incarnation)
            return others and pushed.encoding is not Encoding.NONE

        found: tuple[list[Order], list[bytes]] | None = self._book.behind(request.after, request.until, wanted)
        if found is None:
            self._reply(sender, number, Refused(reason=Reason.STALE, detail="these orders are no longer at hand"))
        else:
            self._reply(sender, number, Payloads(), found[1])

    def _reply(self, sender: bytes, number: int, message: Reply, data: Sequence[bytes] = ()) -> None:
        self._send(sender, frames.encode(number, message, data))


def serve_shard(owner: ShardOwner, socket: zmq.Socket[Any], patience: Patience) -> None:
    """Until the coordinator or a signal says stop."""
    while not (owner.stopped or patience.stopping):
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(owner._link.socket, zmq.POLLIN)
        poller.poll(_POLL_MS)
        requests = []
        while True:
            try:
                sender, *received = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            requests.append((sender, received))
        owner.receive(requests)
        owner.turn()
    owner.close()
