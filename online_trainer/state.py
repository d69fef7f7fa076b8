"""The state folder: its lock, and the files in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from online_trainer.checkpoint import Checkpoints
from online_trainer.journal import Journal

LEDGER = "prequential.jsonl"
HISTORY = "history.jsonl"


def rank_folder(folder: Path, rank: int) -> Path:
    """Where rank `rank` of a synchronous group keeps its state, within the group's folder."""
    return folder / f"rank-{rank}"


def is_of_ranks(folder: Path) -> bool:
    """Whether a synchronous group's state lies there."""
    return rank_folder(folder, 0).exists()


class StateInUse(Exception):
    """Another trainer runs on this state folder."""


class StateFolder:
    """One trainer's files. Locked while open; the lock goes with the process, however it ends.

    Raises:
        StateInUse: by another process. JournalDamaged: see `Journal`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StateInUse(
                f"another trainer runs on {folder}; end it, or give this one a folder of its own"
            ) from error
        self.journal = Journal(folder / "journal.jsonl")
        self.checkpoints = Checkpoints(folder / "checkpoints")

    @property
    def ledger(self) -> Path:
        """Rows of what was to be trained."""
        return self.folder / LEDGER

    @property
    def history(self) -> Path:
        """Rows of what only filled the histories."""
        return self.folder / HISTORY

    def close(self) -> None:
        """Let another trainer in."""
        self.journal.close()
        os.close(self._lock)
