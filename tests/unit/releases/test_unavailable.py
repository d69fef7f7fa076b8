"""Which of an S3 server's ways to fail is an outage to be waited out, and how one is waited out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog

from releases import store_watch
from releases.fsspec_store import FsspecReleaseStore
from releases.store_watch import StoreWatch
from releases.unavailable import StoreUnavailable, reached

pytest.importorskip("s3fs", reason="NOT RUN: outages of S3; install the extra `s3`")


class Server(ThreadingHTTPServer):
    """Answers everything with `status`, or never, or with half an answer."""

    daemon_threads = True
    status = 200
    code = ""
    hangs = breaks_off = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked = 0
        self.released = threading.Event()

    @property
    def store(self) -> FsspecReleaseStore:
        endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        return FsspecReleaseStore(
            "s3://bucket/root", key="k", secret="s", endpoint_url=endpoint, config_kwargs={"read_timeout": 0.3}
        )


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.hangs:
            self.server.released.wait(20)
            return
        body = b"half"
        if self.server.code:
            body = f"<Error><Code>{self.server.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body) + 100 * self.server.breaks_off))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.released.set()
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (502, ""), (503, "SlowDown"), (503, "ServiceUnavailable"), (504, ""), (429, "Busy")],
)
def test_a_server_that_says_5xx_is_away(server: Server, status: int, code: str) -> None:
    server.status, server.code = status, code
    with pytest.raises(StoreUnavailable, match="s3://bucket/root can't be reached"):
        server.store.manifest("tiny", 1)
    assert server.asked <= 2, "tries again is for who waits it out"


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (403, "AccessDenied"), (400, "InvalidRequest")])
def test_a_server_that_refuses_is_not_away(server: Server, status: int, code: str) -> None:
    server.status, server.code = status, code
    with pytest.raises(OSError) as refused:
        server.store.manifest("tiny", 1)
    assert not isinstance(refused.value, StoreUnavailable)


def test_a_server_that_hangs_is_away(server: Server) -> None:
    server.hangs = True
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        server.store.manifest("tiny", 1)
    assert server.asked <= 2


def test_a_connection_that_breaks_within_an_answer_is_away(server: Server) -> None:
    server.breaks_off = True
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        server.store.manifest("tiny", 1)


def test_other_errors_are_passed_on() -> None:
    for error in (FileNotFoundError("gone"), FileExistsError("there"), OSError(28, "no space"), ValueError("text")):
        with pytest.raises(type(error)) as raised, reached("s3://bucket"):
            raise error
        assert raised.value is error


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_an_outage_is_counted_paced_and_logged_once_at_each_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(store_watch, "time", clock)
    shown: list[bool] = []
    counted: list[int] = []
    pauses = []
    # Other tests leave structlog with a level of their own.
    levels = structlog.make_filtering_bound_logger(0)
    recorder = structlog.testing.LogCapture()
    monkeypatch.setattr(store_watch, "_log", structlog.wrap_logger(None, [recorder], levels))
    watch = StoreWatch("serving goes on", shown.append, lambda: counted.append(1))
    watch.answered()
    for _ in range(7):
        with pytest.raises(StoreUnavailable), watch.call():
            raise StoreUnavailable("s3://bucket can't be reached")
        pauses.append(watch.seconds_left)
        clock.now += watch.seconds_left
        assert not watch.seconds_left
    with watch.call():
        pass
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert (shown, len(counted)) == ([False, True], 7)
    assert [(line["event"], line["log_level"]) for line in recorder.entries] == [
        ("store_unavailable", "error"),
        ("store_back", "warning"),
    ]
    assert recorder.entries[0]["effect"] == "serving goes on"
    assert recorder.entries[1]["away_seconds"] == sum(pauses)


def test_who_has_no_later_asks_at_once_and_the_next_outage_begins_with_a_short_pause() -> None:
    watch = StoreWatch("", lambda up: None, lambda: None)
    for _ in range(5):
        watch.lost(StoreUnavailable("away"))
    assert watch.seconds_left > 10
    watch.hurry()
    assert watch.seconds_left == 0
    watch.answered()
    watch.lost(StoreUnavailable("away"))
    assert 0 < watch.seconds_left <= 1
