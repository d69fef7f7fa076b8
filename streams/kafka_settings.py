"""How our Kafka clients are set up: one owner for every setting that two clients must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Compression = Literal["none", "gzip", "lz4", "zstd"]

MAX_RECORD_BYTES = 1_000_000
"""The largest key + value + headers taken, under the broker's own default of 1,048,588 for a batch."""

RECONNECT_BACKOFF_MAX_MS = 500
"""Found by trying: after a 15 s outage kafka-python needs 8.6 s with its default of 30 s, 0.3 s with this."""


@dataclass(frozen=True)
class KafkaSettings:
    """A Kafka connection's settings.

    Attributes:
        bootstrap: `HOST:PORT`, or several with commas.
        client_id: how broker logs name this client.
        max_in_flight_bytes: bound of what waits for an acknowledgement, Python's own overhead included.
        delivery_timeout_seconds: a record not acknowledged by then fails; an outage shorter than this is ridden out.
        connect_timeout_seconds: how long a call that needs a broker's answer waits for one.
        request_timeout_seconds: a request without an answer is taken for lost.
        patience_seconds: how long a reader waits for a broker that has gone before it says so.
        compression: of whole batches.
    """

    bootstrap: str
    client_id: str = "slipstream"
    max_in_flight_bytes: int = 64 * 2**20
    delivery_timeout_seconds: float = 60.0
    connect_timeout_seconds: float = 3.0
    request_timeout_seconds: float = 10.0
    patience_seconds: float = 30.0
    compression: Compression = "lz4"

    def __post_init__(self) -> None:
        for server in self.servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"Kafka bootstrap {self.bootstrap!r} is not HOST:PORT[,HOST:PORT…]")
        if self.delivery_timeout_seconds < self.request_timeout_seconds:
            raise ValueError(
                f"delivery_timeout_seconds={self.delivery_timeout_seconds} is below "
                f"request_timeout_seconds={self.request_timeout_seconds}: raise the first or lower the second"
            )

    @property
    def servers(self) -> list[str]:
        """The bootstrap servers, one by one."""
        return [server.strip() for server in self.bootstrap.split(",")]

    def common(self) -> dict[str, Any]:
        """What a producer, a consumer and an admin client share."""
        return {
            "bootstrap_servers": self.servers,
            "client_id": self.client_id,
            "bootstrap_timeout_ms": _milliseconds(self.connect_timeout_seconds),
            "request_timeout_ms": _milliseconds(self.request_timeout_seconds),
            "reconnect_backoff_max_ms": RECONNECT_BACKOFF_MAX_MS,
        }

    def producer(self) -> dict[str, Any]:
        """An idempotent producer. Idempotence is named, so that a setting that conflicts with it raises."""
        return self.common() | {
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if self.compression == "none" else self.compression,
            "delivery_timeout_ms": _milliseconds(self.delivery_timeout_seconds),
            "max_block_ms": _milliseconds(self.connect_timeout_seconds),
            "metrics_enabled": False,
        }

    def consumer(self) -> dict[str, Any]:
        """A reader by assignment that sees committed records and never jumps to another offset by itself."""
        return self.common() | {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "metrics_enabled": False,
        }


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
