from __future__ import annotations

import pytest

from streams.kafka_settings import KafkaSettings


@pytest.mark.parametrize("bootstrap", ["", "localhost", "localhost:", ":9092", "a:9092,b", "a:port"])
def test_a_bootstrap_without_host_or_port_is_refused(bootstrap: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        KafkaSettings(bootstrap)


def test_several_servers() -> None:
    assert KafkaSettings("a:1, b:2").servers == ["a:1", "b:2"]


def test_timeouts_that_contradict_each_other_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"delivery_timeout_seconds=5 .* request_timeout_seconds=10"):
        KafkaSettings("a:1", delivery_timeout_seconds=5, request_timeout_seconds=10)
