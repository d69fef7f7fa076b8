"""Opening kafka-python clients without leaks, and its errors in our words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient

from streams.event_log import LogUnavailable, RecordRefused

Client = TypeVar("Client")

for _name in ("kafka.net", "kafka.cluster"):
    # Three ERROR lines for each refused connection, twice a second for each client, all through an outage that our
    # callers are told of anyway. A level that somebody has set stands.
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.CRITICAL)

_REFUSED = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidRecordError,
    errors.InvalidTimestampError,
    errors.InvalidTopicError,
)


def connect(client_class: Callable[..., Client], config: Mapping[str, Any]) -> Client:
    """`client_class(**config)`, connected.

    Two mends of kafka-python 3.0.12 as it was seen: it leaves an IO thread behind for each first connection that
    fails, so the network client of a failed attempt is closed here; and it loses `allow_auto_create_topics` on the way
    to the request that creates them, so that asking for a misspelt topic would make it.

    Raises:
        LogUnavailable: no broker answered within `bootstrap_timeout_ms`.
    """
    opened: list[KafkaNetClient] = []

    def network_client(**arguments: Any) -> KafkaNetClient:
        client = KafkaNetClient(**arguments)
        client.cluster.config["allow_auto_create_topics"] = False
        opened.append(client)
        return client

    try:
        return client_class(**config, kafka_client=network_client)
    except (errors.KafkaError, OSError) as error:
        for client in opened:
            client.close()
        raise LogUnavailable(f"no Kafka broker answers at {','.join(config['bootstrap_servers'])}: {error}") from error


def translate(error: BaseException, doing: str) -> Exception:
    """What `error` means to a caller of the `EventLog`: RecordRefused or LogUnavailable, naming what was being done."""
    kind = RecordRefused if isinstance(error, _REFUSED) else LogUnavailable
    translated = kind(f"{doing}: {type(error).__name__}: {error}")
    translated.__cause__ = error
    return translated
