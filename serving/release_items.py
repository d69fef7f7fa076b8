"""Which items a release's weights know: the model folder's, and those that the trainer has added since."""

from __future__ import annotations

from contracts.release import ReleaseManifest
from recommender.prompt import Prompt
from serving.engine import SwapRefused


class ReleaseItems:
    """An engine's three item lists, beside the three sets of weights of its `SwapHistory`. They change in a swap only.

    Args:
        folder: the model folder's prompt and vocabulary; what every release's list begins with.
    """

    def __init__(self, folder: Prompt) -> None:
        self.live = folder
        self._folder = folder
        self._staged = self._previous = folder

    def stage(self, manifest: ReleaseManifest) -> None:
        """Hold the release's list ready. Raises SwapRefused: it can't stand behind this folder's items."""
        self._staged = self._of(manifest)

    def committed(self) -> None:
        """The staged release is live now."""
        self._previous, self.live = self.live, self._staged

    def rolled_back(self) -> None:
        """The one before it is live again."""
        self.live = self._previous

    def _of(self, manifest: ReleaseManifest) -> Prompt:
        added, vocabulary = manifest.added_items, self._folder.vocabulary
        if added is None:
            return self._folder
        if not added.fits(vocabulary.item_ids):
            raise SwapRefused(
                f"release {manifest.version} adds {len(added.item_ids)} items to another model folder's: start this "
                "replica with the folder that the trainer was started with"
            )
        try:
            return Prompt(self._folder.template, vocabulary.with_items(added.item_ids))
        except ValueError as error:
            raise SwapRefused(f"release {manifest.version} has items that do not fit here: {error}") from error
