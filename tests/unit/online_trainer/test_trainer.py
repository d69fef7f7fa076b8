"""The trainer on a log in memory: what is trained, what is not, what is published, and after what goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from contracts import topics, wire
from contracts.release import LiveVersion, ReleaseAnnouncement, live_key
from online_trainer.ledger import LedgerRow, Untrained, read_rows
from online_trainer.start import StateDoesNotFit
from online_trainer.trainer import Trainer
from releases.bundle import WeightBundle
from releases.store import WriterReplaced
from streams.catch_up import newest_by_key
from streams.dead_letters import OFFSET, PARTITION
from streams.event_log import Partition
from tests.unit.online_trainer.conftest import World, click, small_model
from tests.unit.online_trainer.test_files import file_size_limit

Run = Callable[..., Trainer]


def rows_of(world: World, state: str = "state") -> list[LedgerRow]:
    return read_rows(world.folder / state / "prequential.jsonl")


def announced(world: World) -> ReleaseAnnouncement:
    value = newest_by_key(world.log, topics.RELEASES)[b"tiny"].value
    assert value is not None
    return wire.decode(value, ReleaseAnnouncement)


def newest(world: World) -> WeightBundle:
    return world.store.read("tiny", announced(world).version)


def weights_are(bundle: WeightBundle, trainer: Trainer) -> bool:
    live = {
        name: bytes(t.contiguous().view(-1).view(torch.uint8).numpy()) for name, t in trainer.learner.weights().items()
    }
    return live == {name: bytes(raw.data) for name, raw in bundle.tensors.items()}


def test_every_event_is_trained_once_and_the_last_release_covers_them(world: World, run: Run) -> None:
    world.send(*map(click, range(100)))
    trainer = run()
    rows = rows_of(world)
    ends = {p.partition: end for p, end in world.log.end_offsets(world.log.partitions(topics.EVENTS)).items()}
    assert Counter((row.partition, row.offset) for row in rows) == Counter((p, o) for p in ends for o in range(ends[p]))
    assert {row.event_id for row in rows if row.trained} == {f"e{n}" for n in range(100)}
    manifest = newest(world).manifest
    assert manifest.offsets == ends
    assert (manifest.events_trained, manifest.watermark) == (100, 1033.0)
    assert weights_are(newest(world), trainer)
    assert all(0 <= (row.ndcg or 0) <= 1 for row in rows)


def test_the_first_release_is_the_model_s_own_weights(world: World, run: Run) -> None:
    world.send(*map(click, range(30)))
    untrained = {name: tensor.clone() for name, tensor in small_model().model.state_dict().items()}
    run()
    first = world.store.read("tiny", 1)
    assert first.manifest.events_trained == 0
    for name, raw in first.tensors.items():
        assert bytes(raw.data) == bytes(untrained[name].contiguous().view(-1).view(torch.uint8).numpy())
    assert world.store.versions("tiny") == [1, 2, 3]


def test_events_before_the_start_fill_histories_and_are_not_trained(world: World) -> None:
    world.send(*map(click, range(40)))
    trainer = world.trainer(train_from="end", stop_at_end=False)
    world.send(*map(click, range(40, 60)), click(5))
    while trainer.progress.plans_applied < 2:
        trainer.run_once()
    trainer.close()
    assert newest(world).manifest.offsets != {}
    again = world.trainer()
    again.run()
    again.close()
    trained = {row.event_id for row in rows_of(world) if row.trained}
    assert trained == {f"e{n}" for n in range(40, 60)}
    assert [row.reason for row in rows_of(world) if row.event_id == "e5"] == [Untrained.DUPLICATE]
    assert len(read_rows(world.folder / "state" / "history.jsonl")) == 40
    assert len(again.progress.users.histories.of("u0")) == sum(click(n).user_id == "u0" for n in range(60))


@pytest.mark.parametrize(
    ("train_from", "problem"),
    [({0: 1}, "the topic has"), ({0: 99, 1: 0, 2: 0, 3: 0}, "which holds 0 to")],
)
def test_a_start_that_the_log_does_not_have_is_refused(world: World, train_from: Any, problem: str) -> None:
    world.send(*map(click, range(4)))
    with pytest.raises(ValueError, match=problem):
        world.trainer(train_from=train_from)


def test_a_duplicate_is_trained_once_even_across_a_restart(world: World, run: Run) -> None:
    world.send(*map(click, range(20)), click(3), click(4, user_id="someone-else"))
    run()
    world.send(click(7), click(20))
    trainer = run()
    counts = Counter(row.event_id for row in rows_of(world) if row.trained)
    assert counts == Counter(f"e{n}" for n in range(21))
    assert sum(row.reason is Untrained.DUPLICATE for row in rows_of(world)) == 3
    assert trainer.progress.events_trained == 21


def test_what_cannot_be_read_goes_to_the_dead_letters_and_the_rest_is_trained(world: World, run: Run) -> None:
    bad = [b"not json", b"{}", None, b'{"event_id": 5}', wire.encode(click(1)).replace(b"1000", b'"x"')]
    bad.append(wire.encode(click(1, event_id="odd")).replace(b'"click"', b'"No Type"'))
    world.send(*map(click, range(10)))
    for data in bad:
        world.send_bytes(data)
    world.send(*map(click, range(10, 20)))
    run()
    unreadable = [row for row in rows_of(world) if row.reason is Untrained.UNREADABLE]
    letters = world.broker.records[Partition(topics.dead_letter(topics.EVENTS), 0)]
    assert [letter.value for letter in letters] == bad
    places = [(int(dict(letter.headers)[PARTITION]), int(dict(letter.headers)[OFFSET])) for letter in letters]
    assert places == [(row.partition, row.offset) for row in unreadable]
    assert sum(row.trained for row in rows_of(world)) == 20


def test_a_type_against_its_pattern_is_found_among_readable_events(world: World, run: Run) -> None:
    world.send(*map(click, range(30)))
    world.send_bytes(wire.encode(click(30)).replace(b'"click"', b'"No Type"'))
    world.send(*map(click, range(31, 60)))
    run()
    (row,) = [row for row in rows_of(world) if not row.trained]
    assert row.reason is Untrained.UNREADABLE
    (letter,) = world.broker.records[Partition(topics.dead_letter(topics.EVENTS), 0)]
    assert letter.value is not None and b"No Type" in letter.value


def test_an_event_with_an_unknown_item_is_counted_and_not_trained(world: World, run: Run) -> None:
    world.send(*map(click, range(10)), click(10, item_id="born-yesterday"))
    trainer = run()
    (row,) = [row for row in rows_of(world) if not row.trained]
    assert (row.event_id, row.reason) == ("e10", Untrained.UNKNOWN_ITEM)
    assert trainer.progress.events_trained == 10
    assert trainer.metrics.untrained.labels("unknown_item")._value.get() == 1


def test_batches_without_anything_to_train_make_no_release(world: World, run: Run) -> None:
    world.send(*map(click, range(10)))
    run()
    versions = world.store.versions("tiny")
    world.send(click(1), click(2), click(30, item_id="unknown"))
    trainer = run()
    assert world.store.versions("tiny") == versions
    assert trainer.progress.committed is not None
    assert trainer.progress.committed.offsets == trainer.progress.offsets
    assert len(rows_of(world)) == 13


def test_a_log_that_stands_still_is_cut_the_same_way_every_time(world: World, run: Run) -> None:
    world.send(*map(click, range(90)))
    first = run(state="first")
    second = run(state="second")
    assert (world.folder / "first/journal.jsonl").read_bytes() == (world.folder / "second/journal.jsonl").read_bytes()
    left, right = first.learner.state(), second.learner.state()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_journal_repeats_a_training_on_live_batches(world: World, run: Run) -> None:
    trainer = world.trainer(stop_at_end=False, linger_seconds=0.0, state="live")
    for number in range(60):
        world.send(click(number))
        if number % 5 == 0 or number % 7 == 0:
            trainer.run_once()
    while trainer.progress.events_trained < 60:
        trainer.run_once()
    trainer.release()
    trainer.close()
    (world.folder / "again").mkdir()
    (world.folder / "again/journal.jsonl").write_bytes((world.folder / "live/journal.jsonl").read_bytes())
    again = run(state="again")
    left, right = trainer.learner.state(), again.learner.state()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert rows_of(world, "live") == rows_of(world, "again")
    assert len({row.batch for row in rows_of(world, "live")}) > 8


def test_weights_that_are_not_finite_are_never_published_and_training_goes_on(world: World) -> None:
    world.send(*map(click, range(100)))
    trainer = world.trainer(publish_events=16)
    while trainer.progress.plans_applied < 3:
        trainer.run_once()
    with torch.no_grad():
        trainer.learner.recommender.model.base_model.norm.weight[0] = float("nan")
    trainer.run()
    trainer.close()
    for version in world.store.versions("tiny"):
        for name, raw in world.store.read("tiny", version).tensors.items():
            assert torch.frombuffer(bytearray(raw.data), dtype=torch.float32).isfinite().all(), (version, name)
    rows = rows_of(world)
    refused = [row for row in rows if row.reason is Untrained.NON_FINITE]
    assert len(rows) == 100
    assert {row.batch for row in refused} == {3, 4}
    assert sum(row.trained for row in rows) == 84 == newest(world).manifest.events_trained
    assert trainer.metrics.non_finite._value.get() >= 1


def test_weights_spoilt_just_before_a_commit_are_not_committed(world: World) -> None:
    world.send(*map(click, range(48)))
    trainer = world.trainer(publish_events=0)
    while trainer.progress.plans_applied < 2:
        trainer.run_once()
    with torch.no_grad():
        trainer.learner.recommender.model.base_model.norm.weight[0] = float("inf")
    trainer.release()
    assert world.store.versions("tiny") == [1]
    assert trainer.learner.is_finite()
    trainer.run()
    trainer.close()
    assert sum(row.reason is Untrained.NON_FINITE for row in rows_of(world)) == 16
    assert newest(world).manifest.events_trained == 32


def test_a_replaced_trainer_stops_and_its_successor_goes_on(world: World) -> None:
    world.send(*map(click, range(60)))
    old = world.trainer(state="old")
    while old.progress.plans_applied < 2:
        old.run_once()
    new = world.trainer(state="new")
    with pytest.raises(WriterReplaced, match="taken over"):
        old.run()
    new.run()
    old.close()
    new.close()
    assert newest(world).manifest.epoch == 2
    assert weights_are(newest(world), new)


def test_a_transactional_id_that_was_only_lost_is_claimed_again(world: World) -> None:
    world.send(*map(click, range(60)))
    trainer = world.trainer()
    # Somebody else claims the id, but no epoch: for Kafka's client the same as an id lost in a broker's failure.
    world.log.produce_transaction("slipstream-trainer-tiny", [])
    trainer.run()
    trainer.close()
    assert announced(world).version == max(world.store.versions("tiny"))


def test_a_release_that_was_committed_and_not_published_is_published_at_the_next_start(world: World, run: Run) -> None:
    world.send(*map(click, range(24)))
    trainer = world.trainer(publish_events=0)
    while trainer.progress.events_trained < 24:
        trainer.run_once()
    trainer.progress.commit(2)
    trainer.close()
    assert world.store.versions("tiny") == [1]
    run()
    assert world.store.versions("tiny") == [1, 2]
    assert announced(world).version == 2


def test_a_version_number_that_the_store_has_is_stepped_over(world: World, run: Run) -> None:
    world.send(*map(click, range(24)))
    run(state="lost")
    assert world.store.versions("tiny") == [1, 2]
    trainer = run(state="another")
    assert world.store.versions("tiny") == [1, 2, 3, 4]
    assert announced(world).version == 4
    assert weights_are(newest(world), trainer)


def test_a_full_store_stops_publishing_and_not_training(world: World) -> None:
    world.send(*map(click, range(48)))
    trainer = world.trainer(publish_events=0)
    while trainer.progress.events_trained < 24:
        trainer.run_once()
    with file_size_limit(100_000):
        trainer.release()
        assert trainer.metrics.disk_full._value.get() == 1
        while trainer.progress.events_trained < 48:
            trainer.run_once()
    trainer.run()
    trainer.close()
    assert trainer.metrics.disk_full._value.get() == 0
    assert newest(world).manifest.events_trained == 48
    assert len(rows_of(world)) == 48


def test_old_releases_go_and_the_ones_in_service_stay(world: World) -> None:
    world.send(*map(click, range(8)))
    trainer = world.trainer(publish_events=8, keep_releases=2, stop_at_end=False)
    live = LiveVersion(model="tiny", version=3, previous_version=2, committed_at=0.0)
    world.log.produce(topics.RELEASES, live_key("tiny").encode(), wire.encode(live)).result()
    for number in range(8, 160):
        world.send(click(number))
        if number % 8 == 7:
            while trainer.progress.events_trained < number + 1:
                trainer.run_once()
    trainer.close()
    versions = world.store.versions("tiny")
    assert versions[:2] == [2, 3]
    assert 2 + 2 <= len(versions) <= 2 + 2 + 10
    assert versions[-1] == announced(world).version == 21


def test_a_state_folder_of_another_model_or_log_is_refused(world: World, run: Run) -> None:
    world.send(*map(click, range(10)))
    run()
    for records in world.broker.records.values():
        records.clear()
    with pytest.raises(StateDoesNotFit, match="this is another log"):
        world.trainer()


def test_the_state_of_a_synchronous_group_is_left_to_it(world: World) -> None:
    (world.folder / "state" / "rank-0").mkdir(parents=True)
    with pytest.raises(StateDoesNotFit, match="--exchange sync"):
        world.trainer()
