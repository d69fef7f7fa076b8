"""The `Engine` contract, over plain PyTorch and vLLM: what is ranked, what a swap does, what is refused."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import torch

from contracts.release import AddedItems
from contracts.replica import RankAnswer, RankRequest
from recommender.cold_start import with_items
from recommender.loading import Recommender, load_recommender
from recommender.scoring import score_histories, top_items
from releases.bundle import WeightBundle
from serving.engine import Engine, EngineSettings, SwapRefused
from serving.shared_file import SharedRelease
from tests.serving_worlds import NUM_ITEMS, bundle_of, histories, write_recommenders

TOLERANCE = 1e-4
"""fp32 sums in another order differ by 2e-6 here; a wrong mask, version or normalisation by 1e-2 and more."""
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::FutureWarning:vllm.*"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def model_dirs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three sets of weights of one model."""
    return write_recommenders(tmp_path_factory.mktemp("models"), 3)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["torch", pytest.param("vllm", marks=pytest.mark.vllm)]
)
async def engine(request: pytest.FixtureRequest, model_dirs: list[Path]) -> AsyncIterator[Engine]:
    """Version 1 of the model. Prefix caching is on, so that a swap without a new cache salt shows."""
    settings = EngineSettings(model_dirs[0], cpu_cores="0", prefix_caching=True)
    found = _make(request.param, settings)
    environment = dict(os.environ)
    try:
        await found.start(1)
        yield found
    finally:
        await found.close()
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()  # vLLM leaves a ZeroMQ context to the garbage collector; not in somebody else's test
        os.environ.clear()
        os.environ.update(environment)


def _make(name: str, settings: EngineSettings) -> Engine:
    if name == "torch":
        from serving.torch_engine import TorchEngine

        return TorchEngine(settings)
    from serving.vllm_engine import VllmEngine

    return VllmEngine(settings)


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def version_one(engine: Engine, model_dirs: list[Path]) -> None:
    """Every test begins with version 1 live."""
    if engine.version != 1:
        await swap(engine, model_dirs[0], 1)


async def swap(engine: Engine, model_dir: Path, version: int) -> None:
    await engine.stage(bundle_of(model_dir, version))
    await engine.commit(version)


async def rank(engine: Engine, history: list[str], num_results: int = 10, **masks: list[str] | None) -> RankAnswer:
    request = RankRequest(request_id="test", history=history, num_results=num_results, **masks)  # type: ignore[arg-type]
    return await engine.recommend(request)


def agrees(
    answer: RankAnswer, oracle: Recommender, history: list[str], excluded: set[str], candidates: set[str]
) -> bool:
    """Whether `answer` is the oracle's list; items whose scores differ by less than the tolerance may change places."""
    vocabulary = oracle.vocabulary
    scores = score_histories(oracle, [history])[0]
    hidden = {i for i, item in enumerate(vocabulary.item_ids) if item in excluded or item not in candidates}
    expected = top_items(scores, len(answer.items), hidden)
    items = [vocabulary.index[item.item_id] for item in answer.items]
    return (
        len(set(items)) == len(items)
        and not set(items) & hidden
        and all(
            abs(found.score - want) < TOLERANCE and abs(float(scores[item]) - want) < TOLERANCE
            for found, item, (_, want) in zip(answer.items, items, expected, strict=True)
        )
    )


async def test_ranks_as_the_oracle_does(engine: Engine, model_dirs: list[Path]) -> None:
    oracle, everything = load_recommender(model_dirs[0]), set(engine.known_items)
    asked = histories(24)
    answers = await asyncio.gather(*(rank(engine, history, 20, exclude=history) for history in asked))
    assert all(len(answer.items) == 20 and answer.model_version == 1 for answer in answers)
    for history, answer in zip(asked, answers, strict=True):
        assert agrees(answer, oracle, history, set(history), everything)


async def test_scores_are_the_same_whatever_is_masked(engine: Engine) -> None:
    history = histories(3)[2]
    best = (await rank(engine, history, 5)).items
    without_best = await rank(engine, history, 4, exclude=[best[0].item_id])
    assert [item.item_id for item in without_best.items] == [item.item_id for item in best[1:]]
    for masked, plain in zip(without_best.items, best[1:], strict=True):
        assert masked.score == pytest.approx(plain.score, abs=TOLERANCE)


async def test_a_user_who_has_seen_nearly_everything_gets_exactly_the_rest(engine: Engine) -> None:
    items = list(engine.known_items)
    seen, unseen = items[:-3], items[-3:]
    answer = await rank(engine, seen[:60], 10, exclude=seen)
    assert {item.item_id for item in answer.items} == set(unseen)
    assert (await rank(engine, seen[:60], 10, exclude=items)).items == []


async def test_candidates_alone_are_ranked(engine: Engine, model_dirs: list[Path]) -> None:
    oracle = load_recommender(model_dirs[0])
    candidates, history = [f"item-{n}" for n in range(0, NUM_ITEMS, 7)], ["item-0", "item-7", "item-9"]
    answer = await rank(engine, history, 15, candidates=[*candidates, "unknown"], exclude=["item-0", "unknown"])
    assert len(answer.items) == 15
    assert agrees(answer, oracle, history, {"item-0"}, set(candidates))
    assert (await rank(engine, history, 15, candidates=[])).items == []


async def test_answers_of_mixed_lengths_do_not_leak_into_one_another(engine: Engine) -> None:
    history = histories(5)[4]
    sizes = [1, 500, 3, 50, 500, 2]
    answers = await asyncio.gather(*(rank(engine, history, size) for size in sizes))
    longest = [item.item_id for item in answers[1].items]
    for size, answer in zip(sizes, answers, strict=True):
        assert len(answer.items) == min(size, NUM_ITEMS)
        assert [item.item_id for item in answer.items][:3] == longest[: min(size, 3)]


async def test_a_swap_changes_answers_and_a_roll_back_brings_the_old_ones_back(
    engine: Engine, model_dirs: list[Path]
) -> None:
    history = histories(2)[1]
    before, checksum = await rank(engine, history), await engine.checksum()
    await engine.stage(bundle_of(model_dirs[1], 2))
    assert (await rank(engine, history)).items == before.items, "staging must not show"
    report = await engine.commit(2)
    assert (report.version, report.previous_version) == (2, 1)
    assert await engine.checksum() == (2, report.checksum)
    assert report.checksum != checksum[1]
    after = await rank(engine, history)
    assert after.model_version == 2
    assert agrees(after, load_recommender(model_dirs[1]), history, set(), set(engine.known_items))
    rolled_back = await engine.roll_back()
    assert (rolled_back.version, rolled_back.checksum) == checksum
    again = await rank(engine, history)
    assert [item.item_id for item in again.items] == [item.item_id for item in before.items]
    with pytest.raises(SwapRefused, match="no earlier version"):
        await engine.roll_back()


async def test_staging_the_next_release_does_not_cost_the_roll_back(engine: Engine, model_dirs: list[Path]) -> None:
    checksum = await engine.checksum()
    await swap(engine, model_dirs[1], 2)
    await engine.stage(bundle_of(model_dirs[2], 3))
    assert (await engine.roll_back()).checksum == checksum[1]
    assert (await engine.commit(3)).version == 3


async def test_a_release_that_knows_more_items_ranks_them_and_a_roll_back_forgets_them(
    engine: Engine, model_dirs: list[Path]
) -> None:
    folder = load_recommender(model_dirs[1])
    oracle = with_items(folder, ["born-1", "born-2", "born-3"])
    history, before = ["item-3", "born-2", "item-5"], await rank(engine, ["item-3", "item-5"], 500)
    await engine.stage(growing(model_dirs[1], 2, folder, ["born-1", "born-2", "born-3"]))
    assert (await rank(engine, history, 500)).items == before.items, "staging must not show"
    await engine.commit(2)
    everything = set(oracle.vocabulary.item_ids)
    assert set(engine.known_items) == everything
    for excluded in (set[str](), {"born-1", "item-9"}):
        answer = await rank(engine, history, 500, exclude=list(excluded))
        assert agrees(answer, oracle, history, excluded, everything)
    some = await rank(engine, history, 10, candidates=["born-3", "item-1", "born-1"], exclude=["born-1"])
    assert {item.item_id for item in some.items} == {"born-3", "item-1"}
    await engine.roll_back()
    again = await rank(engine, history, 500)
    assert [item.item_id for item in again.items] == [item.item_id for item in before.items]
    assert (await rank(engine, history, 10, candidates=["born-3"])).items == []
    for version, added in ((3, ["born-1"]), (4, ["born-1", "born-2"])):
        await engine.stage(growing(model_dirs[1], version, folder, added))
        await engine.commit(version)
    await engine.roll_back()
    assert list(engine.known_items) == [*folder.vocabulary.item_ids, "born-1"]


async def test_items_that_do_not_fit_are_refused_and_serving_goes_on(engine: Engine, model_dirs: list[Path]) -> None:
    folder = load_recommender(model_dirs[1])
    full = [f"born-{n}" for n in range(folder.vocabulary.reserved_slots + 1)]
    with pytest.raises(SwapRefused, match="reserved slots"):
        await engine.stage(growing(model_dirs[1], 2, folder, full))
    elsewhere = AddedItems.behind(["other", *folder.vocabulary.item_ids[1:]], ["born-1"])
    bundle = bundle_of(model_dirs[1], 2)
    with pytest.raises(SwapRefused, match="another model folder"):
        await engine.stage(
            WeightBundle(msgspec.structs.replace(bundle.manifest, added_items=elsewhere), bundle.tensors)
        )
    with pytest.raises(SwapRefused, match="not staged"):
        await engine.commit(2)
    assert len((await rank(engine, ["item-1"])).items) == 10


def growing(model_dir: Path, version: int, folder: Recommender, added: list[str]) -> WeightBundle:
    """The folder's weights as a release in which `added` have got reserved slots."""
    bundle = bundle_of(model_dir, version)
    items = AddedItems.behind(folder.vocabulary.item_ids, added)
    return WeightBundle(msgspec.structs.replace(bundle.manifest, added_items=items), bundle.tensors)


async def test_equal_weights_have_equal_checksums(engine: Engine, model_dirs: list[Path]) -> None:
    _, checksum = await engine.checksum()
    await swap(engine, model_dirs[1], 2)
    await swap(engine, model_dirs[0], 3)
    assert await engine.checksum() == (3, checksum)


async def test_foreign_and_unstaged_releases_are_refused_and_serving_goes_on(
    engine: Engine, model_dirs: list[Path], tmp_path: Path
) -> None:
    before = await engine.checksum()
    with pytest.raises(SwapRefused, match="not staged"):
        await engine.commit(7)
    (foreign,) = write_recommenders(tmp_path, 1, num_items=NUM_ITEMS + 200)
    with pytest.raises(SwapRefused, match="other tensors"):
        await engine.stage(bundle_of(foreign, 7))
    whole = bundle_of(model_dirs[1], 7)
    whole.tensors.pop("model.norm.weight")  # type: ignore[attr-defined]
    with pytest.raises(SwapRefused, match=r"model\.norm\.weight is missing"):
        await engine.stage(whole)
    assert await engine.checksum() == before
    assert (await rank(engine, ["item-1"])).model_version == 1


async def tamper(engine: Engine, model_dir: Path) -> None:
    """Behind the engine's back, other weights take the place of the staged ones: as a bit flipped in memory would."""
    from serving.torch_engine import TorchEngine
    from serving.vllm_engine import VllmEngine

    if isinstance(engine, TorchEngine):
        engine._staged["model.norm.weight"][0] += 1
        return
    assert isinstance(engine, VllmEngine)
    with SharedRelease(bundle_of(model_dir, 1)) as path:
        await engine._rpc("slipstream_stage", path)
        await engine._stage_results()


async def test_weights_that_changed_after_staging_are_never_served(engine: Engine, model_dirs: list[Path]) -> None:
    history = histories(3)[2]
    before, checksum = await rank(engine, history), await engine.checksum()
    await engine.stage(bundle_of(model_dirs[1], 2))
    await tamper(engine, model_dirs[2])
    with pytest.raises(SwapRefused, match="not applied"):
        await engine.commit(2)
    assert await engine.checksum() == checksum
    assert (await rank(engine, history)).items == before.items
    with pytest.raises(SwapRefused, match="no earlier version"):
        await engine.roll_back()
    await swap(engine, model_dirs[1], 2)
    assert (await rank(engine, history)).model_version == 2


async def test_no_answer_is_of_two_versions_while_releases_come_and_go(engine: Engine, model_dirs: list[Path]) -> None:
    oracles = [load_recommender(model_dir) for model_dir in model_dirs]
    everything = set(engine.known_items)
    asked = histories(40)
    answers: list[tuple[list[str], RankAnswer]] = []
    done = asyncio.Event()

    async def ask(worker: int) -> None:
        turn = worker
        while not done.is_set():
            history = asked[turn % len(asked)]
            answers.append((history, await rank(engine, history, exclude=history)))
            turn += 4

    workers = [asyncio.create_task(ask(worker)) for worker in range(4)]
    for version in range(2, 10):
        await swap(engine, model_dirs[(version - 1) % 3], version)
        await rank(engine, [])  # so that the other askers get answers of this version too
    done.set()
    await asyncio.gather(*workers)
    assert len({answer.model_version for _, answer in answers}) > 4
    with torch.inference_mode():
        for history, answer in answers:
            oracle = oracles[(answer.model_version - 1) % 3]
            assert agrees(answer, oracle, history, set(history), everything)
