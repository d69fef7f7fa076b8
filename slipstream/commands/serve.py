"""`slipstream serve`: one serving replica."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from serving.engine import Engine, EngineSettings


class EngineName(StrEnum):
    """What computes."""

    VLLM = "vllm"
    TORCH = "torch"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    model: Annotated[str, typer.Option(help="The model's name, as its releases carry it.")],
    model_dir: Annotated[Path, typer.Option(help="Its folder: Hugging Face layout with items.json beside.")],
    releases: Annotated[str, typer.Option(metavar="URL", help="The release store: a folder, or s3://bucket/prefix.")],
    kafka: Annotated[str, typer.Option(envvar="SLIPSTREAM_KAFKA", metavar="HOST:PORT", help="The Kafka broker.")],
    engine: Annotated[EngineName, typer.Option(help="vllm, or torch: plain PyTorch, slower.")] = EngineName.VLLM,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the replica's private API.")] = 8090,
    replica_id: Annotated[str, typer.Option(help="What it calls itself; empty for host:port.")] = "",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Ranks each layer is split over.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(min=1, help="Stages the layers are split over.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 on a GPU.")] = "float32",
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Recommendations in one engine step.")] = 64,
    cpu_cores: Annotated[
        str, typer.Option(help="Cores of each worker on a CPU, e.g. '0' or '0|1'; empty shares all of them.")
    ] = "",
    prefix_caching: Annotated[
        bool, typer.Option("--prefix-caching/--no-prefix-caching", help="Keep the cache of prompts that begin alike.")
    ] = False,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Recommendations held at once; more get a 503.")] = 512,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve one replica until SIGTERM. It is ready when it has reached the model's live version.

    Ends with code 1 when the engine is lost.
    """
    from serving.engine import EngineSettings
    from slipstream import logs

    logs.configure(log_level)
    settings = EngineSettings(
        model_dir=model_dir,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        dtype=dtype,
        max_num_seqs=max_num_seqs,
        cpu_cores=cpu_cores,
        prefix_caching=prefix_caching,
    )
    try:
        built = _build(engine, settings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    name = replica_id or f"{host}:{port}"
    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        code = runner.run(_run(name, model, built, engine, releases, kafka, host, port, max_in_flight))
    # Engine threads must not keep a finished process: nothing is left to write.
    os._exit(code)


def _build(engine: EngineName, settings: EngineSettings) -> Engine:
    """Before torch is imported: the environment that vLLM and OpenMP read."""
    if engine is EngineName.TORCH:
        from serving.torch_engine import TorchEngine

        return TorchEngine(settings)
    from serving.vllm_compat import prepare_environment

    prepare_environment(settings)
    from serving.vllm_engine import VllmEngine

    return VllmEngine(settings)


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's where it is installed."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


async def _run(
    name: str, model: str, engine: Engine, engine_name: str, releases: str, kafka: str, host: str, port: int, limit: int
) -> int:
    from releases.fsspec_store import FsspecReleaseStore
    from serving.live_version import wait_for_version
    from serving.replica import Replica
    from serving.replica_app import serve as serve_replica
    from streams.kafka_log import KafkaEventLog

    log = KafkaEventLog(kafka, client_id=f"slipstream-{name}")
    try:
        replica = Replica(name, model, engine, engine_name, FsspecReleaseStore(releases), limit)
        find_version = functools.partial(wait_for_version, log, model, replica.lifecycle)
        return await serve_replica(replica, find_version, host, port)
    finally:
        log.close()
