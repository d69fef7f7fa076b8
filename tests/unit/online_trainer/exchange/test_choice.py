"""Dense or compressed: the faster one is taken, kept while the other is hardly better, and left when it is not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from online_trainer.exchange.bench import measure_choice, toxiproxy_binary
from online_trainer.exchange.bench_crossover import Exchanged, Link, crossover_gigabits
from online_trainer.exchange.choice import Costs, EncodingChoice, crossover_bytes_per_second
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.sequencer import GroupSettings
from streams.broker import free_port
from tests.unit.online_trainer.exchange.conftest import Group, click
from tests.unit.online_trainer.exchange.test_group import trained

DENSE, COMPRESSED = False, True
WORKERS = ("a", "b")


def push(choice: EncodingChoice, rounds: int, seconds: Callable[[bool], float]) -> list[bool]:
    """Every worker pushes as told; how, round by round."""
    said = []
    for _ in range(rounds):
        compressed = choice.compressed
        said.append(compressed)
        for worker in WORKERS:
            choice.record(worker, compressed, seconds(compressed), len(WORKERS))
    return said


@pytest.mark.parametrize("faster", [DENSE, COMPRESSED])
@pytest.mark.parametrize("first", [DENSE, COMPRESSED])
def test_both_are_tried_and_the_faster_is_taken(first: bool, faster: bool) -> None:
    choice = EncodingChoice(first)
    tried = ([first] * choice.TRIES + [not first] * choice.TRIES) * choice.PASSES
    said = push(choice, len(tried) + 14, lambda compressed: 1.0 if compressed is faster else 1.05)
    assert said == tried + [faster] * 14
    assert choice.settled is faster


def test_a_busy_time_does_not_decide() -> None:
    choice, number = EncodingChoice(COMPRESSED), 0

    def seconds(compressed: bool) -> float:
        nonlocal number
        number += 1
        # Dense is the faster one, and most of its first try falls into a time in which everything waits.
        waits = 4.0 if choice.TRIES * 2 < number <= choice.TRIES * 2 + 12 else 0.0
        return (1.3 if compressed else 1.0) + waits

    push(choice, 2 * choice.PASSES * choice.TRIES, seconds)
    assert choice.settled is DENSE


def test_the_first_push_of_a_try_does_not_count() -> None:
    choice, seen = EncodingChoice(COMPRESSED), dict.fromkeys((DENSE, COMPRESSED), 0)

    def seconds(compressed: bool) -> float:
        seen[compressed] += 1
        return 100.0 if compressed and seen[compressed] <= len(WORKERS) else 2.0 - compressed

    push(choice, 2 * choice.PASSES * choice.TRIES, seconds)
    assert choice.settled is COMPRESSED
    assert choice.seconds(COMPRESSED) == 1.0


def settled_on_dense() -> EncodingChoice:
    choice = EncodingChoice(COMPRESSED)
    push(choice, 2 * choice.PASSES * choice.TRIES, lambda compressed: 2.0 if compressed else 1.0)
    assert choice.settled is DENSE
    return choice


@pytest.mark.parametrize(("compressed_seconds", "then"), [(0.95, DENSE), (0.8, COMPRESSED)])
def test_the_other_has_another_try_and_must_be_clearly_faster(compressed_seconds: float, then: bool) -> None:
    choice = settled_on_dense()
    said = push(choice, choice.AGAIN + 20, lambda compressed: compressed_seconds if compressed else 1.0)
    assert said[: choice.AGAIN] == [DENSE] * choice.AGAIN, "measured again too soon"
    assert said[choice.AGAIN : choice.AGAIN + choice.TRIES] == [COMPRESSED] * choice.TRIES
    assert said[choice.AGAIN + choice.TRIES :] == [then] * (20 - choice.TRIES)
    assert choice.settled is then


def test_a_push_of_before_the_word_counts_for_nothing() -> None:
    choice = EncodingChoice(COMPRESSED)
    for _ in range(100):
        choice.record("a", DENSE, 0.001, 1)
    assert choice.compressed is COMPRESSED and choice.settled is None


def test_a_worker_without_events_does_not_hold_the_choice_up() -> None:
    choice = EncodingChoice(COMPRESSED)
    for _ in range(8 * choice.PASSES * choice.TRIES):
        choice.record("a", choice.compressed, 2.0 if choice.compressed else 1.0, 2)
    assert choice.settled is DENSE


def test_crossover_is_the_rate_at_which_both_take_as_long() -> None:
    dense, compressed = Costs(0.001, 0.002, 8_000_000), Costs(0.004, 0.003, 80_000)
    rate = crossover_bytes_per_second(dense, compressed, 2)
    assert dense.exchange_seconds(rate, 2) == pytest.approx(compressed.exchange_seconds(rate, 2))
    assert dense.exchange_seconds(2 * rate, 2) < compressed.exchange_seconds(2 * rate, 2)


def test_the_measured_crossover_is_where_the_difference_changes_its_sign() -> None:
    # Dense: 0.1 ms and 1 ms a Gb/s⁻¹; compressed: 0.6 ms whatever the link.
    links = [
        Link(
            rate, Exchanged(0.0001 + 0.001 / rate if rate else 0.0001, 0, 0), Exchanged(0.0006, 0, 0), rate in (0.3, 1)
        )
        for rate in (0.3, 0, 10, 1)
    ]
    assert crossover_gigabits(links) == pytest.approx(2.0)
    assert crossover_gigabits([link for link in links if link.gigabits != 10]) == pytest.approx(2.0)
    assert crossover_gigabits(links[:1]) is None
    assert [link.lost for link in links] == [1.0] * 4
    wrong = msgspec.structs.replace(links[1], chosen_compressed=True)
    assert wrong.lost == pytest.approx(6.0)


def test_a_group_tries_both_encodings_and_all_its_workers_follow(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    # Six tries of four pushes of two workers, of the hundred that there are.
    monkeypatch.setattr(EncodingChoice, "TRIES", 4)
    group.send(*(click(n) for n in range(400)))
    owner = group.owner(Rule(average=0.9, choose=True), GroupSettings(batch_events=4))
    workers = [group.worker(name, number) for number, name in enumerate(WORKERS)]
    for _, thread, _ in workers:
        thread.finish()
    owner.finish()
    assert group.process is not None
    choice = group.process.owner.choice
    assert choice is not None and choice.settled is not None
    assert choice.seconds(COMPRESSED) > 0 and choice.seconds(DENSE) > 0
    assert {worker.exchange.news.compressed for worker, _, _ in workers} == {choice.compressed}
    assert choice.settled in {worker.exchange.cost.compressed for worker, _, _ in workers if worker.exchange.cost}
    assert sum(trained(group).values()) == len(trained(group)) == 400
    shown = {kind: group.metric("slipstream_exchange_push_seconds", encoding=kind) for kind in ("compressed", "dense")}
    assert shown == {"compressed": choice.seconds(COMPRESSED), "dense": choice.seconds(DENSE)}
    assert group.metric("slipstream_exchange_compressed") == choice.settled


@pytest.mark.skipif(toxiproxy_binary() is None, reason="toxiproxy is not on the PATH: capped links are not shown")
def test_over_a_slow_link_a_group_chooses_to_compress() -> None:
    # 1 MB/s: 0.1 s for a dense update, 1 ms for a compressed one; no noise hides that.
    found = measure_choice(Rule(choose=True, compressed=False), 50_000, 2, 1e6, free_port)
    assert found.compressed
