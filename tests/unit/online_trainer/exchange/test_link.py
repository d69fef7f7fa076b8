"""An answer that is only late is waited for: asking again must not push it further away."""

from __future__ import annotations

import threading
import time

import pytest
import zmq

from online_trainer.exchange import frames, link
from online_trainer.exchange.link import Link, listen
from online_trainer.exchange.messages import Done, Leave


def test_an_owner_slower_than_the_first_patience_is_heard_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is answered 0.5 s after it came, to the connection it came on; asked again every 0.1 s, never."""
    monkeypatch.setattr(link, "_RESEND_SECONDS", 0.1)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket, address = listen(context, "tcp://127.0.0.1:0", None)
    ending, asked = threading.Event(), []

    def serve() -> None:
        waiting: list[tuple[float, bytes, int]] = []
        while not ending.is_set():
            if socket.poll(10):
                sender, *received = socket.recv_multipart()
                asked.append(time.monotonic())
                waiting.append((asked[-1] + 0.5, sender, frames.decode_request(received)[0]))
            while waiting and waiting[0][0] <= time.monotonic():
                _, sender, number = waiting.pop(0)
                socket.send_multipart([sender, *frames.encode(number, Done())])

    thread = threading.Thread(target=serve)
    thread.start()
    asker = Link(context, address)
    try:
        reply, _ = asker.ask(Leave(worker="w", incarnation=1), patience_seconds=5)
        assert reply == Done()
        assert 2 <= len(asked) <= 4, "0.1, 0.3, 0.7 s: the fourth is waited for"
        before = len(asked)
        asker.ask(Leave(worker="w", incarnation=1), patience_seconds=5)
        assert len(asked) == before + 1, "it has learned how long answers take"
    finally:
        asker.close()
        ending.set()
        thread.join()
        socket.close(0)
