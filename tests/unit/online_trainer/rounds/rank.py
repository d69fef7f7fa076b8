"""What a rank of these tests runs: `python rank.py RANK SIZE STORE_FILE FOLDER DEVICE`.

It leaves what it found in FOLDER.
"""

from __future__ import annotations

import math
import resource
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch

from contracts.event import Event
from online_trainer.admission import Arrival
from online_trainer.exchange.messages import Rule
from online_trainer.ledger import Untrained
from online_trainer.progress import Progress
from online_trainer.rounds.commit import commit, restore
from online_trainer.rounds.dedupe import settle, share_windows
from online_trainer.rounds.group import GroupDiffers, RankGroup
from online_trainer.rounds.learner import Round, StepLearner
from online_trainer.state import StateFolder
from online_trainer.users import DedupeWindow, Histories
from recommender.examples import Interaction
from recommender.loading import Recommender
from recommender.recipe import OnlineRecipe
from streams.event_log import Record
from tests.unit.online_trainer.conftest import click, small_model

RECIPES = {
    "replay": OnlineRecipe(dropout=0.0, average=0.5, replay_windows=4, learning_rate=0.01, whole_windows=False),
    "replay, one moment a tensor": OnlineRecipe(
        dropout=0.0, average=0.5, replay_windows=4, learning_rate=0.01, whole_windows=False, second_moment="tensor",
        betas=(0.0, 0.98),
    ),
    "whole": OnlineRecipe(dropout=0.0, average=0.0, replay_windows=0, learning_rate=0.01, whole_windows=False),
}  # fmt: skip
FIRST, SECOND = range(6), range(6, 9)
"""Events of rank 0's and of rank 1's partition, whose users differ."""


def arrival(partition: int, offset: int, event: Event, reason: Untrained | None = None) -> Arrival:
    return Arrival(Record("events", partition, offset, b"", b"", 0.0), event, reason)


def model(group: RankGroup) -> Recommender:
    recommender = small_model()
    recommender.model.to(group.device)
    return recommender


def arrivals(numbers: range, partition: int) -> list[Arrival]:
    return [arrival(partition, n, click(n, user_id=f"p{partition}-u{n % 3}")) for n in numbers]


def past(*partitions: int) -> Histories:
    """Of three users each who have all done the same, so that whoever is drawn, the replayed loss is one."""
    histories = Histories(100)
    for partition in partitions:
        for n in range(12):
            histories.add(f"p{partition}-u{n % 3}", Interaction(f"i{n // 3}", float(n // 3)))
    return histories


def learned(group: RankGroup, recipe: OnlineRecipe, rule: Rule) -> dict[str, torch.Tensor]:
    """Weights after three rounds: of both ranks, of one alone, of none that may step."""
    learner = StepLearner(model(group), recipe, rule)
    for number, own in enumerate(((FIRST, SECOND)[group.rank], range(9, 12) if group.rank == 0 else range(0))):
        mine, averaged = settle(group, arrivals(own, group.rank), DedupeWindow(100))
        learner.train(Round(number + 1, averaged, rule.compressed, False), mine, past(group.rank))
    before = {name: tensor.clone() for name, tensor in learner.state().items()}
    again = StepLearner(model(group), recipe, rule)
    again.load_state(before)
    _, averaged = settle(group, [], DedupeWindow(100))
    learner.train(Round(3, averaged, rule.compressed, False), [], past(group.rank))
    mine, averaged = settle(group, arrivals(range(12, 16), group.rank), DedupeWindow(100))
    for one in (learner, again):
        one.train(Round(4, averaged, rule.compressed, False), mine, past(group.rank))
    state = {name: tensor for name, tensor in learner.state().items() if not name.startswith("random.")}
    same = all(torch.equal(tensor, again.state()[name]) for name, tensor in state.items())
    weights = {name.removeprefix("model."): t.clone() for name, t in before.items() if name.startswith("model.")}
    return {name: tensor.cpu() for name, tensor in weights.items()} | {"restored": torch.tensor(same)}


def told(group: RankGroup) -> dict[str, Any]:
    """Which of the own arrivals are duplicates, what the step averages, and what is remembered."""
    seen = DedupeWindow(100)
    seen.add_new(group.rank, f"old-{group.rank}")
    share_windows(group, seen, [group.rank])
    mine = [
        arrival(group.rank, 0, click(group.rank)),
        arrival(group.rank, 1, click(7)),
        arrival(group.rank, 2, click(8 + group.rank, item_id="nowhere"), Untrained.UNKNOWN_ITEM),
    ]
    for one in mine:
        # As admission does.
        assert one.event is not None
        seen.add_new(group.rank, one.event.event_id)
    settled, averaged = settle(group, mine, seen)
    return {
        "reasons": [one.reason for one in settled],
        "averaged": list(averaged),
        "seen": sorted(name for name in ("e0", "e1", "e7", "e8", "e9", "old-0", "old-1", "e3") if name in seen),
    }


def committed(group: RankGroup, folder: Path) -> dict[str, Any]:
    """Outcomes of four commits, the third of which finds rank 1's disk full, and the numbers that stay."""
    state = StateFolder(folder / f"rank-{group.rank}")
    learner = StepLearner(model(group), RECIPES["whole"], Rule(compressed=False))
    progress = Progress(state, learner, 100, 100)
    progress.start_over({group.rank: 0})
    outcomes = []
    for number in range(1, 4):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if number == 3 and group.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        outcomes.append(commit(group, progress, number).name)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    newest = state.checkpoints.newest()
    assert newest is not None
    if group.rank == 0:
        # As if the other had died between its vote and its rename.
        progress.commit(3)
    restore(group, state.checkpoints)
    after = state.checkpoints.newest()
    assert after is not None
    with torch.no_grad():
        next(learner.learning.parameters())[0, 0] = math.nan
    outcomes.append(commit(group, progress, 4).name)
    return {"outcomes": outcomes, "newest": newest[0].number, "after": after[0].number}


def disagreed(group: RankGroup) -> str:
    group.must_agree("nothing", 2**52)
    try:
        group.must_agree("their weights", group.rank)
    except GroupDiffers as error:
        return str(error)
    return ""


def main(rank: str, size: str, store: str, folder: str, device: str) -> None:
    torch.set_num_threads(1)
    group = RankGroup(int(rank), int(size), f"file://{store}", 60.0, device)
    tensors = {
        f"{name}, {kind}": learned(group, recipe, Rule(compressed=kind == "compressed"))
        for name, recipe in RECIPES.items()
        for kind in ("dense", "compressed")
    }
    torch.save(tensors, Path(folder) / f"{rank}.pt")
    said = {"told": told(group), "committed": committed(group, Path(folder)), "disagreed": disagreed(group)}
    said["gathered"] = [data.decode() for data in group.gather(b"" if group.rank else b"from 0")]
    (Path(folder) / f"{rank}.json").write_bytes(msgspec.json.encode(said))
    group.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
