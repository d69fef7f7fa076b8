"""The alerting rules name only metrics and labels that the code registers, and the night's page has a line for each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from gateway.metrics import GatewayMetrics
from online_trainer.exchange.metrics import ExchangeMetrics
from online_trainer.metrics import TrainerMetrics
from serving.metrics import ReplicaMetrics

ROOT = Path(__file__).parents[3]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/slipstream.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
SUFFIXES = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
}
WORDS = {"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "group_left", "group_right"}
TARGET_LABELS = {"job", "instance", "model"}
"""Prometheus's own, and the one that the page asks for."""


def _registries() -> list[CollectorRegistry]:
    trainer = TrainerMetrics()
    ExchangeMetrics(trainer.registry)
    return [trainer.registry, GatewayMetrics().registry, ReplicaMetrics().registry]


def _labels_of_series() -> dict[str, set[str]]:
    """Series' name → its labels."""
    series: dict[str, set[str]] = {"up": set()}
    for registry in _registries():
        for metric in list(registry._collector_to_names):
            assert isinstance(metric, MetricWrapperBase)
            for described in metric.describe():
                for suffix in SUFFIXES[described.type]:
                    bucket = {"le"} if suffix == "_bucket" else set()
                    series[described.name + suffix] = {*metric._labelnames, *bucket}
    return series


SERIES = _labels_of_series()


def _selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Each series that is read: its name, and the labels it is chosen by."""
    found = []
    plain = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    for name, matchers in re.findall(r"(?<![\w.])([a-zA-Z_]\w*)\b(?!\s*\()\s*(\{[^}]*\})?", _outside(plain)):
        if name not in WORDS:
            found.append((name, set(re.findall(r"(\w+)\s*[=!]", matchers))))
    return found


def _outside(expression: str) -> str:
    """Without the text of strings and without ranges."""
    return re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', '""', expression))


def _grouped_by(expression: str) -> set[str]:
    lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for labels in lists for label in labels.split(",")}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_series_of_a_rule_is_registered(rule: dict[str, Any]) -> None:
    selectors = _selectors(rule["expr"])
    assert selectors
    unknown = [name for name, _ in selectors if name not in SERIES]
    assert not unknown, f"{rule['alert']}: nothing registers {unknown}"
    for name, labels in selectors:
        assert labels <= SERIES[name] | TARGET_LABELS, f"{rule['alert']}: {name} has {SERIES[name]}, not {labels}"
    known = set().union(*(SERIES[name] for name, _ in selectors)) | TARGET_LABELS
    assert _grouped_by(rule["expr"]) <= known
    shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert shown <= known, f"{rule['alert']} shows {shown - known}, which its series do not have"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_rule_says_how_bad_it_is_and_what_mends_it(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+(s|m|h)", rule["for"])
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].strip()
    assert len(rule["annotations"]["description"]) >= 60


def test_what_must_never_rise_has_a_rule() -> None:
    watched = {name for rule in RULES for name, _ in _selectors(rule["expr"])}
    urgent = [
        found.name + "_total"
        for registry in _registries()
        for found in registry.collect()
        if "Alert on any increase" in found.documentation
    ]
    assert len(urgent) >= 2
    assert set(urgent) <= watched


def test_the_page_for_the_night_has_a_line_for_each_rule() -> None:
    alerts = [rule["alert"] for rule in RULES]
    assert len(set(alerts)) == len(alerts)
    lines = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/at-night.md").read_text(), flags=re.MULTILINE)
    assert sorted(lines) == sorted(alert.removeprefix("Slipstream") for alert in alerts)
