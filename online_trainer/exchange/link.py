"""ZeroMQ sockets: addresses, keys, and a client that sends again what was not answered."""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
import zmq
from zmq.utils import z85

from online_trainer.exchange import frames
from online_trainer.exchange.messages import Reply, Request

_RESEND_SECONDS, _LONGEST_RESEND_SECONDS = 2.0, 10.0
_TURN_SECONDS = 0.02
Work = Callable[[], bool | None]
"""What is done while an answer is awaited, in turns of a few milliseconds: True, it got on and is called again at once;
False, there was nothing to do yet; None, it is done, or can't go on before the answer."""
_log = structlog.get_logger(__name__)


class OwnerUnavailable(Exception):
    """No answer for longer than the caller would wait."""


@dataclass(frozen=True)
class Keys:
    """CURVE key pairs of both ends, derived from one shared secret: who has the file may take part."""

    owner_public: bytes
    owner_secret: bytes
    worker_public: bytes
    worker_secret: bytes

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Raises ValueError for a file of fewer than 32 bytes."""
        secret = path.read_bytes()
        if len(secret) < 32:
            raise ValueError(f"{path} has {len(secret)} bytes: write at least 32 random ones, e.g. openssl rand 32")
        pairs = []
        for role in (b"owner", b"worker"):
            private = z85.encode(hashlib.blake2b(secret, digest_size=32, person=role).digest())
            pairs.append((zmq.curve_public(private), private))
        return cls(*pairs[0], *pairs[1])


def require_keys_off_loopback(address: str, keys: object) -> None:
    """Raises ValueError for an address that others can reach, without keys."""
    host = urlsplit(address).hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost" or address.startswith(("ipc:", "inproc:"))
    if keys is None and not loopback:
        raise ValueError(f"{address} is not loopback: give --exchange-key, a file that every worker and owner has")


def listen(context: zmq.Context[Any], address: str, keys: Keys | None) -> tuple[zmq.Socket[Any], str]:
    """A ROUTER bound to `address` (port 0: any), and the address it got. With keys, only their holders get through."""
    require_keys_off_loopback(address, keys)
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 100)
    # A worker that comes back takes its old identity over.
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if keys is not None:
        socket.curve_server = True
        socket.curve_secretkey, socket.curve_publickey = keys.owner_secret, keys.owner_public
        socket.zap_domain = b"slipstream"
    socket.bind(address)
    return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)


class Link:
    """Asks one owner. For one thread."""

    def __init__(self, context: zmq.Context[Any], address: str, keys: Keys | None = None) -> None:
        require_keys_off_loopback(address, keys)
        self.address = address
        self.sent_bytes = 0
        self.received_bytes = 0
        self.waited_seconds = 0.0
        """Spent in `receive`: exchange time that nothing hid."""
        self.hidden_seconds = 0.0
        """Spent in `receive` on turns of work that got on. An answer is looked for between turns only."""
        self.damaged = 0
        self._keys = keys
        self._context = context
        self._numbers = itertools.count(1)
        self._pending: tuple[int, frames.Frames] | None = None
        self._sent_at = 0.0
        self._resend_seconds = _RESEND_SECONDS
        self._socket = self._connect()

    def send(self, message: Request, payloads: Sequence[bytes] = ()) -> None:
        """Ask; one request at a time."""
        number = next(self._numbers)
        self._pending = (number, frames.encode(number, message, payloads))
        self._transmit()

    def receive(self, patience_seconds: float, work: Work | None = None) -> tuple[Reply, frames.Frames]:
        """The answer. What is not answered within two seconds is asked again, on a new connection.

        Then after twice as long, and so on: on a slow link the answer may only be late, and asking again later still.

        Args:
            work: done while the answer is not there.

        Raises:
            OwnerUnavailable: nothing came; ask again with `receive`, or give up with `forget`.
        """
        assert self._pending is not None, "send comes first"  # noqa: S101
        started, hidden_before = time.monotonic(), self.hidden_seconds
        deadline = started + patience_seconds
        try:
            while True:
                work, longest = self._turn(work)
                now = time.monotonic()
                resend = self._sent_at + self._resend_seconds
                if self._socket.poll(max(0, int(1000 * min(deadline - now, resend - now, longest)))):
                    if (reply := self._take()) is not None:
                        return reply
                elif now >= deadline:
                    raise OwnerUnavailable(f"{self.address} has not answered for {patience_seconds:.0f} s")
                elif now >= resend:
                    self._ask_again()
        finally:
            self.waited_seconds += time.monotonic() - started - (self.hidden_seconds - hidden_before)

    def _turn(self, work: Work | None) -> tuple[Work | None, float]:
        """One turn of work if the answer is not there; what there is to do then, and how long to wait before."""
        if work is None or self._socket.poll(0):
            return work, float("inf") if work is None else 0.0
        started = time.monotonic()
        got_on = work()
        if got_on:
            self.hidden_seconds += time.monotonic() - started
            return work, 0.0
        return (None, float("inf")) if got_on is None else (work, _TURN_SECONDS)

    def look(self) -> tuple[Reply, frames.Frames] | None:
        """The answer if it is there; asks again as `receive` does."""
        if self._pending is None:
            return None
        while self._socket.poll(0):
            if (reply := self._take()) is not None:
                return reply
        if time.monotonic() - self._sent_at > self._resend_seconds:
            self._ask_again()
        return None

    @property
    def socket(self) -> zmq.Socket[Any]:
        """To poll; another one after each `look`, perhaps."""
        return self._socket

    def ask(
        self, message: Request, payloads: Sequence[bytes] = (), patience_seconds: float = 30.0
    ) -> tuple[Reply, frames.Frames]:
        """`send`, then `receive`."""
        self.send(message, payloads)
        return self.receive(patience_seconds)

    def forget(self) -> None:
        """Give up on the request that waits for its answer."""
        self._pending = None

    def close(self) -> None:
        """Disconnect."""
        self._socket.close(0)

    def _take(self) -> tuple[Reply, frames.Frames] | None:
        received = self._socket.recv_multipart()
        self.received_bytes += frames.num_bytes(received)
        try:
            number, message, payloads = frames.decode_reply(received)
        except frames.FrameError as error:
            # Asked again when its time comes: an owner answers a repeated request the same.
            self.damaged += 1
            _log.warning("reply_damaged", address=self.address, error=str(error))
            return None
        if self._pending is None or number != self._pending[0]:
            return None
        self._pending = None
        taken = time.monotonic() - self._sent_at
        self._resend_seconds = min(_LONGEST_RESEND_SECONDS, max(_RESEND_SECONDS, 3 * taken))
        return message, payloads

    def _ask_again(self) -> None:
        self._resend_seconds = min(_LONGEST_RESEND_SECONDS, 2 * self._resend_seconds)
        self._reconnect()
        self._transmit()

    def _transmit(self) -> None:
        assert self._pending is not None, "only called with a request"  # noqa: S101
        self._sent_at = time.monotonic()
        self.sent_bytes += frames.num_bytes(self._pending[1])
        self._socket.send_multipart(self._pending[1])

    def _connect(self) -> zmq.Socket[Any]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        if self._keys is not None:
            socket.curve_serverkey = self._keys.owner_public
            socket.curve_secretkey, socket.curve_publickey = self._keys.worker_secret, self._keys.worker_public
        socket.connect(self.address)
        return socket

    def _reconnect(self) -> None:
        self._socket.close(0)
        self._socket = self._connect()
