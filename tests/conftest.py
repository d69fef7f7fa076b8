"""What every test may use. The Kafka fixtures are explained in `tests/README.md`."""

from __future__ import annotations

pytest_plugins = ["tests.kafka_fixtures"]
