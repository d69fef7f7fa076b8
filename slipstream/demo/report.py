"""What the demo measured, as one table for people and one JSON object for programs."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table


class DemoReport(msgspec.Struct, kw_only=True):
    """Every number of a demo run.

    Attributes:
        seconds: from the command's start to this report.
        freshness_p50_seconds, freshness_p99_seconds: an event's 202 to the first answer computed by weights that cover
            it, at the slower replica, over events acknowledged while the rollout ran.
        requests: recommendations asked in both phases.
        dropped: failed requests plus fallbacks that a failure caused.
        mixed_version: model answers that are not the list of the one version they name.
        releases_served: versions with different checksums of the live tensors from which answers came.
        latency_p99_quiet_ms, latency_p99_swap_ms: from the intended send time, rollout paused and running.
        ndcg_frozen, ndcg_online, ndcg_popular_7_days: NDCG@10 over the streamed events, test then train.
        ndcg_gain_low: lower end of the paired 95 % bootstrap interval (over users) of online minus frozen.
        oracle_compared, oracle_agreed: served lists re-scored by plain PyTorch with the version each names.
        oracle_changed: of those, how many the first version would have answered otherwise.
        events_acknowledged, events_trained: distinct event ids.
    """

    seconds: float
    freshness_p50_seconds: float
    freshness_p99_seconds: float
    requests: int
    dropped: int
    mixed_version: int
    releases_served: int
    latency_p99_quiet_ms: float
    latency_p99_swap_ms: float
    ndcg_frozen: float
    ndcg_online: float
    ndcg_popular_7_days: float
    ndcg_gain_low: float
    oracle_compared: int
    oracle_agreed: int
    oracle_changed: int
    events_acknowledged: int
    events_trained: int

    def rows(self) -> list[tuple[str, str, str, bool]]:
        """(what, measured, goal, reached) for the table."""
        swap_ratio = self.latency_p99_swap_ms / max(self.latency_p99_quiet_ms, 1e-9)
        changed = self.oracle_changed / max(self.oracle_compared, 1)
        quiet, swap = self.latency_p99_quiet_ms, self.latency_p99_swap_ms
        return [
            ("time, start to end", f"{self.seconds:.0f} s", "≤ 240 s", self.seconds <= 240),
            ("freshness, median", f"{self.freshness_p50_seconds:.2f} s", "≤ 2 s", self.freshness_p50_seconds <= 2),
            ("freshness, 99 %", f"{self.freshness_p99_seconds:.2f} s", "≤ 8 s", self.freshness_p99_seconds <= 8),
            ("requests", f"{self.requests:,}", "≥ 2,000", self.requests >= 2000),
            ("dropped", f"{self.dropped}", "0", self.dropped == 0),
            ("answers mixed from two versions", f"{self.mixed_version}", "0", self.mixed_version == 0),
            ("releases served", f"{self.releases_served}", "≥ 5", self.releases_served >= 5),
            (
                "p99 latency, rollout paused → swapping",
                f"{quiet:.0f} → {swap:.0f} ms (× {swap_ratio:.2f})",
                "≤ × 1.5",
                swap_ratio <= 1.5,
            ),
            (
                "lists equal to plain PyTorch's",
                f"{self.oracle_agreed:,} of {self.oracle_compared:,}",
                "all, ≥ 200",
                self.oracle_agreed == self.oracle_compared >= 200,
            ),
            ("… that the first weights would not have given", f"{changed:.0%}", "≥ 20 %", changed >= 0.2),
            (
                "NDCG@10: popular in 7 days → frozen model",
                f"{self.ndcg_popular_7_days:.4f} → {self.ndcg_frozen:.4f}",
                "higher",
                self.ndcg_frozen > self.ndcg_popular_7_days,
            ),
            (
                "NDCG@10: frozen → learning online",
                f"{self.ndcg_frozen:.4f} → {self.ndcg_online:.4f} (gain, 95 % low {self.ndcg_gain_low:+.4f})",
                "low end > 0",
                self.ndcg_gain_low > 0,
            ),
            (
                "events acknowledged = trained",
                f"{self.events_acknowledged:,} = {self.events_trained:,}",
                "equal",
                self.events_acknowledged == self.events_trained > 0,
            ),
        ]

    def broken(self) -> list[str]:
        """Of the promises that a slow machine must keep as well, those that this run broke."""
        kept = {
            "a request was dropped": self.dropped == 0,
            "an answer is not its version's": self.mixed_version == 0,
            "a served list is not plain PyTorch's": self.oracle_agreed == self.oracle_compared,
            "fewer than five releases were served": self.releases_served >= 5,
            "events acknowledged are not the events trained": self.events_acknowledged == self.events_trained,
        }
        return [what for what, held in kept.items() if not held]

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title="What just happened", title_justify="left")
        for name, justify in (("measured", "left"), ("value", "right"), ("goal", "left"), ("", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for what, value, goal, reached in self.rows():
            table.add_row(what, value, goal, "[green]yes[/]" if reached else "[bold red]no[/]")
        console.print(table)
