"""What was seen while the demo ran, and the sums over it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from catalogue.replay import Timeline
from contracts.release import ReleaseManifest
from loadtest.answers import Answer, summarise
from online_trainer.ledger import LedgerRow, read_rows
from recommender.loading import load_recommender
from releases.store import ReleaseMissing, ReleaseStore
from slipstream.demo.freshness import Acknowledged, Floats, Served, freshness_seconds
from slipstream.demo.learning import learning
from slipstream.demo.logged import LoggedEvents
from slipstream.demo.phases import Phases
from slipstream.demo.report import DemoReport
from slipstream.demo.rescoring import ServedList, Verdict, rescore
from slipstream.demo.traffic import EventStream
from slipstream.demo.world import MODEL


@dataclass(frozen=True)
class Evidence:
    """Everything the report is computed from.

    Attributes:
        store: the releases that were published.
        state: the trainer's folder, with its ledger.
        stream: what was posted, and when each event was acknowledged.
        phases: every request's answer, and the checksums of the replicas' live tensors.
        logged: where each event lies in the log.
    """

    store: ReleaseStore
    state: Path
    stream: EventStream
    phases: Phases
    logged: LoggedEvents

    def report(self, line: Timeline, start: int, model_dir: Path, started: float) -> DemoReport:
        """The numbers; loads the model twice and re-scores every answer, about fifteen seconds.

        Args:
            line: the whole timeline; `start` is where the stream begins in it.
            started: `time.monotonic()` when the command began.
        """
        torch.set_num_threads(1)  # two threads on two busy cores took 3 to 10 times as long: they wait for each other
        phases = self.phases
        fresh = self.freshness()
        rows = self.trained_rows()
        verdict = self.verdict(model_dir)
        learnt = learning(load_recommender(model_dir), line, start, rows)
        return DemoReport(
            seconds=round(time.monotonic() - started, 1),
            freshness_p50_seconds=float(np.quantile(fresh, 0.5, method="higher")),
            freshness_p99_seconds=float(np.quantile(fresh, 0.99, method="higher")),
            requests=len(phases.answers),
            dropped=sum(answer.dropped for answer in phases.answers),
            mixed_version=verdict.compared - verdict.agreed,
            releases_served=self.releases_proved(),
            latency_p99_quiet_ms=summarise(phases.quiet).p99_ms,
            latency_p99_swap_ms=summarise(phases.swap).p99_ms,
            ndcg_frozen=learnt.frozen,
            ndcg_online=learnt.online,
            ndcg_popular_7_days=learnt.popular_7_days,
            ndcg_gain_low=learnt.gain_low,
            oracle_compared=verdict.compared,
            oracle_agreed=verdict.agreed,
            oracle_changed=verdict.changed,
            events_acknowledged=len(self.stream.acknowledged_at),
            events_trained=len({row.event_id for row in rows if row.trained}),
        )

    def model_answers(self) -> list[Answer]:
        """Answers that a model made."""
        return [answer for answer in self.phases.answers if answer.model_version is not None]

    def freshness(self) -> Floats:
        """Seconds for each event that was acknowledged after the rollout went on. [N]"""
        acknowledged = [
            Acknowledged(self.logged.positions[event_id].partition, self.logged.positions[event_id].offset, at)
            for event_id, at in self.stream.acknowledged_at.items()
            if at >= self.phases.swap_from
        ]
        served = [
            Served(str(answer.replica), int(answer.model_version or 0), answer.received_at)
            for answer in self.model_answers()
        ]
        return freshness_seconds(acknowledged, served, self._manifests())

    def trained_rows(self) -> list[LedgerRow]:
        """The ledger's rows of the stream's events."""
        rows = read_rows(self.state / "prequential.jsonl")
        return [row for row in rows if row.event_id in self.stream.acknowledged_at]

    def verdict(self, model_dir: Path) -> Verdict:
        """Every model answer, re-scored from the history it was computed from."""
        lists = [
            ServedList(
                version=int(answer.model_version or 0),
                history=self.logged.items_of[answer.user_id][: answer.history_length],
                items=answer.items,
            )
            for answer in self.model_answers()
        ]
        return rescore(load_recommender(model_dir), self.store, MODEL, lists)

    def releases_proved(self) -> int:
        """Versions that answered, whose live tensors had one checksum on every replica, and each another one."""
        served = {answer.model_version for answer in self.model_answers()}
        sums = [found for version, found in self.phases.checksums.items() if version in served]
        return len({next(iter(found)) for found in sums if len(found) == 1})

    def _manifests(self) -> dict[int, ReleaseManifest]:
        manifests = {}
        for version in self.store.versions(MODEL):
            try:
                manifests[version] = self.store.manifest(MODEL, version)
            except ReleaseMissing:  # retention went by between the two calls
                continue
        return manifests
