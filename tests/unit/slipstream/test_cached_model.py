"""A cached model is that of the recipe it was made by."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from recommender import recipe
from slipstream import cached_model as module
from slipstream.cached_model import PretrainingFailed, cached_model


def test_a_model_is_kept_until_its_recipe_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PretrainingFailed, match="remove"):
        cached_model(tmp_path, "no-such-set", None, 1.0)
    folder = tmp_path / "models" / f"tiny-no-such-set-1-epochs-{module._recipe()}"
    folder.mkdir(parents=True)
    (folder / "items.json").write_text("{}")
    assert cached_model(tmp_path, "no-such-set", None, 1.0) == folder, "it is there: nothing is trained"
    changed = msgspec.structs.replace(recipe.PRETRAIN, dropout=0.3)
    monkeypatch.setattr(recipe, "PRETRAIN", changed)
    with pytest.raises(PretrainingFailed):
        cached_model(tmp_path, "no-such-set", None, 1.0)
