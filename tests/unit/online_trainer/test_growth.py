"""Items born after the model: from the items topic into the weights, a release, and back after a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from contracts import topics, wire
from contracts.item import Item
from contracts.release import AddedItems, ReleaseKind
from online_trainer import growth
from online_trainer.item_feed import ItemFeed
from online_trainer.journal import JournalDamaged, NewItems
from online_trainer.ledger import Untrained, read_rows
from online_trainer.trainer import Trainer
from recommender.initialise import preset_recommender
from recommender.loading import Recommender
from tests.unit.online_trainer.conftest import NUM_ITEMS, World, click

FOLDER = [f"i{n}" for n in range(NUM_ITEMS)]


def titled_model(slots: int | None = None) -> Recommender:
    torch.set_num_threads(1)
    return preset_recommender("tiny", [item(f"i{n}") for n in range(NUM_ITEMS)], seed=3, reserved_slots=slots)


def item(item_id: str, title: str = "", category: str = "") -> Item:
    number = int(item_id[1:]) if item_id[1:].isdigit() else 0
    return Item(item_id=item_id, title=title or f"Part {number % 5}", categories=(category or f"c{number % 3}",))


def post(world: World, *items: Item) -> None:
    for one in items:
        world.log.produce(topics.ITEMS, one.item_id.encode(), wire.encode(one)).result()


def catalogue(world: World) -> None:
    post(world, *map(item, FOLDER))


def clicks_on(item_id: str, start: int, count: int) -> list[Any]:
    return [click(number, item_id=item_id) for number in range(start, start + count)]


def same(left: Trainer, right: Trainer) -> bool:
    one, other = left.learner.state(), right.learner.state()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def live(world: World) -> Iterator[Callable[..., Trainer]]:
    """Starts a trainer that reads the items topic at every turn and waits for nothing."""
    opened = []

    def start(**settings: Any) -> Trainer:
        given = {"stop_at_end": False, "linger_seconds": 0.0, "recommender": titled_model()}
        trainer = world.trainer(**(given | settings))
        opened.append(trainer)
        return trainer

    yield start
    for trainer in opened:
        trainer.close()


@pytest.fixture(autouse=True)
def every_look_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("online_trainer.item_feed._LOOK_SECONDS", 0.0)


def turn_until(trainer: Trainer, condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        trainer.run_once()
    raise AssertionError("not within 200 turns")


def test_an_item_of_the_topic_is_learned_and_released_without_a_restart(world: World, live: Any) -> None:
    catalogue(world)
    trainer = live(publish_events=8, batch_events=4)
    world.send(*map(click, range(8)), click(8, item_id="new"))
    turn_until(trainer, lambda: trainer.progress.plans_applied >= 3)
    assert [row.reason for row in read_rows(world.folder / "state/prequential.jsonl")][-1] is None
    post(world, item("new", "Part 2", "c2"), item("alien", "Nothing like it", "x"))
    world.send(*clicks_on("new", 9, 8))
    turn_until(trainer, lambda: trainer.progress.events_trained == 16)
    trainer.release()
    version = max(world.store.versions("tiny"))
    manifest = world.store.read("tiny", version).manifest
    assert manifest.added_items == AddedItems.behind(FOLDER, ["new", "alien"])
    assert world.store.manifest("tiny", 1).added_items is None
    rows = {row.event_id: row.reason for row in read_rows(world.folder / "state/prequential.jsonl")}
    assert rows["e8"] is Untrained.UNKNOWN_ITEM
    assert all(rows[f"e{number}"] is None for number in range(9, 17))


def test_an_item_starts_like_its_likes_in_both_sets_of_weights(world: World, live: Any) -> None:
    catalogue(world)
    trainer = live()
    before = trainer.learner.weights()["model.embed_tokens.weight"].clone()
    post(world, item("new", "Part 4", "c1"))
    trainer.run_once()
    vocabulary = trainer.learner.recommender.vocabulary
    for kind in ("model.", "learning."):
        after = trainer.learner.state()[f"{kind}model.embed_tokens.weight"]
        likeness = torch.cosine_similarity(after[vocabulary.token("new")], before[2 : 2 + NUM_ITEMS])
        assert vocabulary.item_ids[int(likeness.argmax())] in {"i4", "i19"}, "title and category are theirs"
        assert torch.equal(after[: 2 + NUM_ITEMS], before[: 2 + NUM_ITEMS])


def test_items_alone_make_a_release_and_the_next_is_a_delta_that_carries_them(world: World, live: Any) -> None:
    catalogue(world)
    trainer = live(publish_events=1, anchor_every=10)
    post(world, item("new"))
    trainer.run_once()
    assert world.store.versions("tiny") == [1, 2]
    world.send(*clicks_on("new", 0, 3))
    turn_until(trainer, lambda: len(world.store.versions("tiny")) == 3)
    assert world.store.manifest("tiny", 2).kind is ReleaseKind.DELTA, "one row is less than all"
    for version in (2, 3):
        found = world.store.read("tiny", version).manifest
        assert found.added_items is not None
        assert found.added_items.item_ids == ("new",)
        assert found.added_items.fits(FOLDER)
        assert not found.added_items.fits([*FOLDER[1:], FOLDER[0]])


@pytest.mark.parametrize("committed", ["never", "at birth", "behind its first events"])
def test_a_restart_adds_the_same_items_at_the_same_step(world: World, live: Any, committed: str) -> None:
    catalogue(world)
    calm = live(publish_events=0, batch_events=4)
    world.send(*map(click, range(12)))
    turn_until(calm, lambda: calm.progress.plans_applied == 3)
    post(world, item("new", "Part 2"))
    calm.run_once()
    if committed == "at birth":
        calm.release()
    world.send(*clicks_on("new", 12, 6))
    turn_until(calm, lambda: calm.progress.events_trained == 18)
    if committed.startswith("behind"):
        calm.release()
    world.send(*map(click, range(18, 24)))
    turn_until(calm, lambda: calm.progress.events_trained == 24)
    # The crash: what the calm trainer holds in memory is lost. The topic says something else by now.
    shutil.copytree(world.folder / "state", world.folder / "copy")
    post(world, item("new", "Another title", "another category"), item("i4", "Renamed", "y"), item("later"))
    again = live(state="copy", publish_events=0, batch_events=4, recommender=titled_model())
    assert again.progress.added_items == (() if committed == "never" else ("new",))
    turn_until(again, lambda: again.progress.events_trained == 24)
    assert same(calm, again)
    assert again.learner.recommender.vocabulary.item_ids[NUM_ITEMS:] == ("new",)
    again.run_once()
    assert again.learner.recommender.vocabulary.item_ids[NUM_ITEMS:] == ("new", "later")


def test_an_entry_that_the_disk_did_not_take_is_chosen_anew(world: World, live: Any) -> None:
    trainer = live()
    trainer.run_once()
    trainer._state.journal._file.sync()
    size = (world.folder / "state/journal.jsonl").stat().st_size
    post(world, item("new"))
    trainer.run_once()
    path = world.folder / "state/journal.jsonl"
    assert path.stat().st_size > size
    shutil.copytree(world.folder / "state", world.folder / "copy")
    torn = path.read_bytes()[:-7]
    (world.folder / "copy/journal.jsonl").write_bytes(torn)
    again = live(state="copy")
    again.run_once()
    assert again.learner.recommender.vocabulary.item_ids[NUM_ITEMS:] == ("new",)
    assert same(trainer, again)


def test_weights_that_are_not_finite_take_no_items_and_those_added_stay_after_going_back(
    world: World, live: Any
) -> None:
    catalogue(world)
    trainer = live(publish_events=0, batch_events=4)
    post(world, item("first"))
    world.send(*map(click, range(8)))
    turn_until(trainer, lambda: trainer.progress.plans_applied == 2)
    with torch.no_grad():
        trainer.learner.recommender.model.get_input_embeddings().weight[3, 0] = float("nan")
    post(world, item("second"))
    trainer.run_once()
    assert trainer.learner.recommender.vocabulary.item_ids[NUM_ITEMS:] == ("first",)
    trainer.release()
    assert trainer.learner.is_finite()
    assert trainer.learner.recommender.vocabulary.item_ids[NUM_ITEMS:] == ()
    turn_until(trainer, lambda: trainer.progress.added_items == ("first", "second"))
    world.send(*clicks_on("second", 8, 4))
    turn_until(trainer, lambda: trainer.progress.events_trained == 4)
    trainer.release()
    assert world.store.read("tiny", max(world.store.versions("tiny"))).manifest.added_items is not None


def test_without_a_slot_it_is_counted_and_said_once_with_the_mend(
    world: World, live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(growth._log, "error", lambda event, **fields: said.append(fields), raising=False)
    trainer = live(recommender=titled_model(slots=0))
    slots = trainer.learner.recommender.vocabulary.reserved_slots
    post(world, *(item(f"n{number}") for number in range(slots + 2)))
    turn_until(trainer, lambda: len(trainer.progress.added_items) == slots)
    post(world, item("n-last"))
    trainer.run_once()
    trainer.run_once()
    (line,) = said
    assert "slipstream init --reserved-slots" in line["mend"]
    assert trainer.metrics.items_without_slot._value.get() == 3
    assert trainer.metrics.items._value.get() == NUM_ITEMS + slots
    world.send(*clicks_on("n-last", 0, 2))
    turn_until(trainer, lambda: trainer.progress.plans_applied >= 1)
    assert trainer.metrics.untrained.labels("unknown_item")._value.get() == 2


def test_a_state_whose_items_the_folder_can_not_hold_is_refused(world: World, live: Any) -> None:
    post(world, *(item(f"n{number}") for number in range(5)))
    trainer = live(publish_events=1)
    trainer.run_once()
    trainer.close()
    known = [item(f"i{n}") for n in range(NUM_ITEMS - 1)] + [item("n3")]
    with pytest.raises(ValueError, match="stands twice"):
        world.trainer(recommender=preset_recommender("tiny", known, seed=3))


def test_the_feed_reads_what_can_be_read_and_forgets_what_was_removed(world: World) -> None:
    post(world, item("a"), item("b"), item("a", "A new title"))
    world.log.produce(topics.ITEMS, b"x", b"not an item").result()
    world.log.produce(topics.ITEMS, b"b", None).result()
    feed = ItemFeed(world.log)
    assert feed.look()
    assert {item_id: one.title for item_id, one in feed.items.items()} == {"a": "A new title"}
    assert not feed.look()
    post(world, item("c"))
    assert feed.look()
    assert list(feed.items) == ["a", "c"]
    feed.close()


def test_items_out_of_their_place_in_the_journal_are_refused(world: World, live: Any) -> None:
    trainer = live()
    with pytest.raises(JournalDamaged, match="items of plan 7 follow plan 0"):
        trainer._state.journal.append(NewItems(after=7, item_ids=("x",), starts={}))
