"""Nodes of Apache Kafka on this machine, from a folder of jars: for tests that must see a real broker die.

`$KAFKA_HOME` is a folder whose `libs/` holds the jars of `deploy/kafka/pom.xml`; its README makes one. Java 17 runs it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from streams.broker import BrokerFailed, die_with_parent, end_process, free_port, wait_until_serving

MINIMUM_JAVA = 17
_CLUSTER_ID = "c2xpcHN0cmVhbS10ZXN0cw"

# A node that was killed may register again only once its old session has ended: 9 s by default, 3 s here.
_SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
delete.topic.enable=true
default.replication.factor={copies}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
min.insync.replicas={in_sync}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
"""

_LOG4J2 = """\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %-5p %c{1} - %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
"""


def java_command() -> str:
    """The `java` of $JAVA_HOME or the path. Raises BrokerFailed: none, or older than 17."""
    java = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else "java"
    found = shutil.which(java)
    if found is None:
        raise BrokerFailed(f"no {java}: install Java {MINIMUM_JAVA} (Debian: openjdk-17-jre-headless)")
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, check=False, timeout=30)
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if version is None or int(version[1]) < MINIMUM_JAVA:
        raise BrokerFailed(f"{found} is {version[1] if version else 'of no known version'}: Java 17 or later is needed")
    return found


class ApacheKafka:
    """A KRaft node on loopback, alone or one of several. What it has acknowledged outlives `kill` and `stop`."""

    def __init__(
        self, home: Path, directory: Path, port: int | None = None, node: int = 1, controllers: Sequence[int] = ()
    ) -> None:
        """Args: home: the folder with `libs/`. directory: data and logs, made if missing. port: None for a free one.

        node: its number, from 1. controllers: the port of each node's controller, the first node's first; () for a
        node that is alone.

        Raises: BrokerFailed: no jars in `home`, or no Java 17.
        """
        if not any((home / "libs").glob("kafka_*.jar")):
            raise BrokerFailed(f"{home}/libs holds no kafka_*.jar: make it with `mvn -f deploy/kafka/pom.xml package`")
        self._java = java_command()
        self._libs = home / "libs"
        self._directory = directory
        self._port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._node = node
        self._write_configuration(list(controllers) or [free_port()])

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT` for clients; the same after every restart."""
        return f"127.0.0.1:{self._port}"

    @property
    def log_file(self) -> Path:
        """The broker's output."""
        return self._directory / "kafka.log"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def _write_configuration(self, controllers: list[int]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "log4j2.properties").write_text(_LOG4J2)
        self._properties = self._directory / "server.properties"
        self._properties.write_text(
            _SERVER_PROPERTIES.format(
                node=self._node,
                voters=",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(controllers, 1)),
                port=self._port,
                controller_port=controllers[self._node - 1],
                data=self._directory / "data",
                copies=min(3, len(controllers)),
                in_sync=2 if len(controllers) > 2 else 1,
            )
        )

    def _command(self, main_class: str, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self._directory / 'log4j2.properties'}"
        heap = ["-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [self._java, *heap, logging, "-cp", f"{self._libs}/*", main_class, *arguments]

    def _format_storage(self) -> None:
        if (self._directory / "data" / "meta.properties").exists():
            return
        command = self._command(
            "kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER_ID, "--config", str(self._properties)
        )
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if answer.returncode:
            raise BrokerFailed(f"formatting {self._directory} failed:\n{answer.stdout}{answer.stderr}")

    def start(self, timeout_seconds: float = 60.0) -> str:
        """Start, wait until it serves; returns `bootstrap`. Does nothing while it runs. Raises BrokerFailed."""
        if not self.running:
            self.launch()
            self.wait(timeout_seconds)
        return self.bootstrap

    def launch(self) -> None:
        """Start and wait for nothing: a node of several serves only once it has a quorum. Raises BrokerFailed."""
        self._format_storage()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(),
            )

    def wait(self, timeout_seconds: float = 60.0) -> None:
        """Return once a launched node serves. Raises BrokerFailed."""
        if self._process is None:
            raise BrokerFailed(f"the node in {self._directory} has not been launched, or was ended")
        try:
            wait_until_serving(self.bootstrap, self._process, self.log_file, timeout_seconds)
        except BrokerFailed:
            self.kill()
            raise

    def kill(self) -> None:
        """`kill -9`: no goodbye to clients, nothing flushed. Idempotent."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in an orderly way, by force after 15 s. Idempotent."""
        if self._process is not None:
            end_process(self._process, timeout_seconds=15.0)
            self._process = None
