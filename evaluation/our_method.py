"""Our recommender as a method: pre-trained once, then frozen, online, and retrained ten times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from evaluation.methods import Fit, Method, Settings
from evaluation.ours import ModelScorer, OnlineScorer, OnlineSettings, newborn, own_copy
from evaluation.retraining import RetrainedScorer, Retraining, Start
from evaluation.scorer import Scorer
from recommender.loading import Recommender
from recommender.pretrain import Pretrainer, pretrain
from recommender.recipe import ONLINE, PRETRAIN, OnlineRecipe, PretrainSettings

MODEL = {"preset": "tiny"}


class Ours(Method):
    """Settings; the recipe's where left out.

    `model`: `preset`, `window`, `copying` and `popular`, as `newborn` takes them. `pretrain`: `PretrainSettings`.
    `online`: `OnlineSettings`.
    """

    name = "ours"

    def __init__(self, trials: tuple[dict[str, Any], ...] = ({},), online: bool = True) -> None:
        self.trials = trials
        self._online = online

    def fit(self, fit: Fit, settings: Settings) -> dict[str, Scorer]:
        """`ours-frozen`, and `ours-online` where there is a stream: both start from the same weights."""
        recommender = self.pretrained(fit, settings)
        dataset = fit.past.dataset
        scorers: dict[str, Scorer] = {"ours-frozen": ModelScorer(own_copy(recommender), dataset)}
        if self._online:
            scorers["ours-online"] = OnlineScorer(
                recommender, fit.past, online_settings(settings.get("online", {}), fit.seed)
            )
        return scorers

    def pretrained(self, fit: Fit, settings: Settings) -> Recommender:
        """A recommender over the items born in the past, trained on all of it."""
        recommender = newborn(fit.past, seed=fit.seed, **{**MODEL, **settings.get("model", {})})
        recommender.model.to(fit.device)
        trainer = Pretrainer(recommender, fit.past, _pretrain_settings(fit, settings))
        pretrain(
            trainer, on_step=lambda now: fit.report(f"epoch {now.epoch:.1f} of {now.epochs:.0f}, loss {now.loss:.3f}")
        )
        return recommender


class Retrained(Ours):
    """Our recommender, retrained ten times over the stream. Settings: those of `Ours`, and `start`."""

    name = "ours-retrained"

    def fit(self, fit: Fit, settings: Settings) -> dict[str, Scorer]:
        """The same first model as `Ours` has with these settings and seed."""
        start: Start = settings["start"]
        how = Retraining(start, _pretrain_settings(fit, settings), {**MODEL, **settings.get("model", {})})
        return {
            self.name: RetrainedScorer(self.pretrained(fit, settings), fit.past, fit.stream_events, how, fit.report)
        }


def retrained_trials(ours: Settings, starts: Sequence[Start]) -> tuple[dict[str, Any], ...]:
    """From scratch or warm, with the settings chosen for `Ours`."""
    return tuple({**ours, "start": start} for start in starts)


def online_settings(given: Mapping[str, Any], seed: int = 0) -> OnlineSettings:
    """From JSON values: `batch_events`, `history_events`, and the rest the trainer's recipe."""
    own = dict(given)
    sizes = {name: own.pop(name) for name in ("batch_events", "history_events") if name in own}
    return OnlineSettings(
        recipe=msgspec.convert({**msgspec.to_builtins(ONLINE), **own, "seed": seed}, OnlineRecipe), **sizes
    )


def _pretrain_settings(fit: Fit, settings: Settings) -> PretrainSettings:
    given = {**msgspec.to_builtins(PRETRAIN), **settings.get("pretrain", {}), "seed": fit.seed}
    return msgspec.convert(given, PretrainSettings)
