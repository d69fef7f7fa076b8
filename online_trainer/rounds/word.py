"""What each rank says before a round, and what the group makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Word(NamedTuple):
    """One rank's, as numbers; flags are 0 or 1.

    Attributes:
        number: of the next round.
        ready: it has a batch, read.
        owes: it has a batch that is due, or of its journal, and not read yet.
        passed: its journal says that this round takes no step.
        encoding: 1 compressed, 0 dense; -1 for no word.
        journalled: the encoding is its journal's.
        ending: it was told to stop.
        exhausted: it has trained all up to the log's end, and was told to end there.
        sick: its weights are not finite.
        version: to commit as, after the round; 0 for no commit. Rank 0's word alone.
        trained, unreadable, duplicate, unknown: records of the last round, by what became of them.
        compute_seconds, ndcg_sum, loss, refused, lag_events, lag_seconds: of the last round.
        waited_seconds, hidden_seconds, sent_bytes, nonfinite: since the rank's start.
    """

    number: float = 0
    ready: float = 0
    owes: float = 0
    passed: float = 0
    encoding: float = -1
    journalled: float = 0
    ending: float = 0
    exhausted: float = 0
    sick: float = 0
    version: float = 0
    trained: float = 0
    unreadable: float = 0
    duplicate: float = 0
    unknown: float = 0
    compute_seconds: float = 0
    ndcg_sum: float = 0
    loss: float = 0
    refused: float = 0
    lag_events: float = 0
    lag_seconds: float = 0
    waited_seconds: float = 0
    hidden_seconds: float = 0
    sent_bytes: float = 0
    nonfinite: float = 0


class Agreement:
    """The same on every rank: a function of all words, in the order of ranks."""

    def __init__(self, words: Sequence[Sequence[float]]) -> None:
        self.words = [Word(*word) for word in words]

    @property
    def begins(self) -> bool:
        """Whether there is a round: a rank has a batch, and none owes one."""
        return any(word.ready for word in self.words) and not any(word.owes for word in self.words)

    @property
    def over(self) -> bool:
        """Whether the group ends now: a rank was told to, or every one has trained the whole log."""
        return any(word.ending for word in self.words) or all(word.exhausted for word in self.words)

    @property
    def passed(self) -> bool:
        """Whether the round takes no step."""
        return any(word.passed for word in self.words)

    @property
    def sick(self) -> bool:
        """Whether weights are not finite."""
        return any(word.sick for word in self.words)

    @property
    def version(self) -> int:
        """To commit as after the round; 0 for no commit."""
        return int(self.words[0].version)

    @property
    def compressed(self) -> bool | None:
        """How gradients go: as a journal says, or else as the ranks have chosen, which is alike; None for no word."""
        words = [word for word in self.words if word.journalled] or self.words
        return None if words[0].encoding < 0 else bool(words[0].encoding)
