"""A group of real processes (owners and workers) on a broker, from the launcher that `slipstream train` uses."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from online_trainer.exchange.messages import Rule
from online_trainer.exchange.sequencer import GroupSettings
from online_trainer.ledger import LedgerRow, read_rows
from online_trainer.settings import TrainerSettings
from recommender.recipe import ONLINE
from slipstream.train_group import GroupConfig, Launcher
from streams.broker import free_port


class TrainerGroup:
    """One launcher, in a thread; its children are processes."""

    def __init__(
        self,
        kafka: str,
        model_dir: Path,
        folder: Path,
        name: str,
        workers: int = 2,
        owners: int = 1,
        fault: str = "",
        everywhere: bool = False,
        rule: Rule | None = None,
        slow_down: dict[int, float] | None = None,
        synchronous: bool = False,
        victim: int | None = None,
        **settings: Any,
    ) -> None:
        recipe = msgspec.structs.replace(ONLINE, replay_windows=4)
        if synchronous and rule is not None and (rule.compressed or rule.choose):
            recipe = recipe.shared_by(workers, rounds=True, compressed=True)
        chosen: dict[str, Any] = {
            "train_from": "begin", "batch_events": 16, "linger_seconds": 0.05, "publish_seconds": 0.0,
            "publish_events": 48, "keep_releases": 1000, "stop_at_end": True, "recipe": recipe,
        }  # fmt: skip
        self.grows = not synchronous and owners == 1
        """Whether it adds new items; ranks and several owners do not."""
        self.state = folder / name
        self.releases = folder / "releases"
        config = GroupConfig(
            settings=TrainerSettings(model=name, state=self.state, **(chosen | settings)),
            group=GroupSettings(staleness_bound=8, lease_seconds=2.0, batch_events=16),
            rule=rule or Rule(average=recipe.average),
            model_dir=model_dir,
            kafka=kafka,
            releases=str(self.releases),
            addresses=() if synchronous else tuple(f"tcp://127.0.0.1:{free_port()}" for _ in range(owners)),
            nice=0,
            log_level="warning",
            slow_down=slow_down or {},
        )
        self.launcher = Launcher(config, workers, fault, everywhere, victim)
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.code = self.launcher.run()

    def finish(self, seconds: float = 60) -> int:
        """Wait for the group's end; its exit code."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.stop()
            raise AssertionError(f"still runs after {seconds} s; deaths so far: {self.launcher.deaths}")
        assert self.code is not None
        return self.code

    def stop(self) -> int:
        """Ask for an orderly end, and wait for it."""
        self.launcher.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.code or 0

    def rows(self) -> list[LedgerRow]:
        """The ledger; that of each rank, one behind another, of a synchronous group."""
        ledgers = sorted(self.state.glob("rank-*/prequential.jsonl")) or [self.state / "prequential.jsonl"]
        return [row for ledger in ledgers for row in read_rows(ledger)]

    def trained(self) -> Counter[str | None]:
        """Event id → how often it was trained."""
        return Counter(row.event_id for row in self.rows() if row.trained)
