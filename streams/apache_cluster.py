"""Several nodes of Apache Kafka on this machine: what a test needs to see one die while the others serve."""

from __future__ import annotations

from pathlib import Path

from streams.apache_kafka import ApacheKafka
from streams.broker import StartedInside, free_port


class ApacheKafkaCluster(StartedInside):
    """KRaft nodes on loopback; with three, topics have three replicas of which two acknowledge.

    Attributes:
        nodes: each may be killed, and started again, on its own.
    """

    def __init__(self, home: Path, directory: Path, nodes: int = 3) -> None:
        """Args: home: the folder with `libs/`. directory: gets a folder for each node.

        Raises: BrokerFailed: no jars in `home`, or no Java 17.
        """
        controllers = [free_port() for _ in range(nodes)]
        self.nodes = [
            ApacheKafka(home, directory / f"node-{number}", node=number, controllers=controllers)
            for number in range(1, nodes + 1)
        ]

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT,HOST:PORT…`, every node's."""
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self, timeout_seconds: float = 90.0) -> str:
        """Start what does not run, wait until all serve; returns `bootstrap`. Raises BrokerFailed."""
        for node in self.nodes:
            if not node.running:
                node.launch()
        for node in self.nodes:
            node.wait(timeout_seconds)
        return self.bootstrap

    def stop(self) -> None:
        """End all. By force: the last ones would wait for a quorum that is gone, and nothing acknowledged is lost."""
        for node in self.nodes:
            node.kill()
