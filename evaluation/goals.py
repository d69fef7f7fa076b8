"""What is compared with what, and how much better it is meant to be."""

from __future__ import annotations

from catalogue.datasets import Dataset
from evaluation.choices import Protocol
from evaluation.heuristics import heuristic_methods
from evaluation.methods import Heuristics, Method, SasrecMethod, sasrec_trials
from evaluation.our_method import Ours, Retrained
from evaluation.our_trials import our_trials
from evaluation.sasrec import Loss
from evaluation.tables import Goal

LOSSES: tuple[Loss, ...] = ("bce", "sampled", "gbce", "full")
SASREC = tuple(f"sasrec-{loss}" for loss in LOSSES)
ONLINE_OVER_FROZEN = {"ml-100k": 1.08}
"""1.15 elsewhere: ML-100K's stream is seven months, almost all of it users' first days."""


def methods(dataset: Dataset, protocol: Protocol) -> list[Method]:
    """Everything that is compared on the data set, cheapest first."""
    found: list[Method] = [Heuristics(heuristic) for heuristic in heuristic_methods(dataset)]
    found += [SasrecMethod(loss, sasrec_trials(loss, dataset.repeats)) for loss in LOSSES]
    streams = protocol == "prequential"
    found.append(Ours(our_trials(dataset, protocol), online=streams))
    if streams:
        found.append(Retrained())
    return found


def goals(dataset: Dataset, protocol: Protocol) -> list[Goal]:
    """The ratios of the protocol."""
    heuristics = tuple(heuristic.name for heuristic in heuristic_methods(dataset))
    if protocol != "prequential":
        found = [
            Goal("ours over tuned SASRec", "ours-frozen", SASREC, 1.0),
            Goal("ours over the best heuristic", "ours-frozen", heuristics, 1.0),
        ]
        if dataset.name == "ml-100k":
            found.append(Goal("ours over BCE-SASRec", "ours-frozen", ("sasrec-bce",), 1.1))
        return found
    return [
        Goal("frozen over tuned SASRec", "ours-frozen", SASREC, 1.0),
        Goal("online over frozen", "ours-online", ("ours-frozen",), ONLINE_OVER_FROZEN.get(dataset.name, 1.15)),
        Goal("online over the best heuristic", "ours-online", heuristics, 1.05),
        Goal("online over retraining", "ours-online", ("ours-retrained",), 1.0),
    ]
