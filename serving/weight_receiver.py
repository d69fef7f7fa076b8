"""What each vLLM worker does with releases: take one in beside the live weights, swap to it, swap back.

vLLM mixes `WeightReceiver` into its worker class (`worker_extension_cls`); `VllmEngine` calls the methods by name on
every rank (`collective_rpc`). Such a call runs between two engine steps, in the same order on all ranks. So a call
must be short: reading and cutting a release runs in a thread of low priority, and the engine asks how it went.
Results are plain tuples and strings, since what a worker raises reaches the engine as bare text.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

import torch
from safetensors import safe_open

from serving import vllm_compat
from serving.shadow import Shadow, live_fingerprint

# The module is imported when the worker is built: before this rank's model is loaded.
vllm_compat.adapt_process()
vllm_compat.die_with_parent()

_STEP_BACK = 5
"""How much nicer than the engine the staging thread is: a third of a core's share beside it. Much nicer, and on a full
machine the thread is starved while it holds the interpreter's lock, which the engine then waits for."""


class WeightReceiver:
    """One rank's live weights, the staged ones and the ones before. Memory: three times the rank's weights."""

    model_runner: Any
    _staging: threading.Thread | None = None
    _stage_result: tuple[str, str] = ("idle", "")
    _filling: Shadow | None = None
    _staged: Shadow | None = None
    _previous: Shadow | None = None
    _spare: Shadow | None = None
    _exchanged: Shadow | None = None

    def slipstream_warm_up(self) -> None:
        """One dummy step. It allocates a pipeline stage's receive buffers, which eager mode otherwise never does."""
        self.model_runner._dummy_run(self.model_runner.max_num_tokens)

    def slipstream_checksum(self) -> str:
        """Of the live weights. Raises RuntimeError when some lie where they can't be read."""
        if hidden := [name for name, parameter in self._model.named_parameters() if not parameter.numel()]:
            raise RuntimeError(f"weights {hidden[:3]} are packed out of sight by this vLLM build; update serving/")
        return live_fingerprint(self._model)

    def slipstream_stage(self, path: str) -> None:
        """Start to take in the safetensors file at `path`; it must stay until `slipstream_stage_result` is done."""
        self._spare, self._staged = self._spare or self._staged, None
        self._stage_result = ("busy", "")
        self._staging = threading.Thread(target=self._fill, args=(path,), name="stage", daemon=True)
        self._staging.start()

    def slipstream_stage_result(self) -> tuple[str, str]:
        """(`busy`, ""), (`done`, fingerprint of what a commit would make live) or (`failed`, why)."""
        if self._stage_result[0] != "busy" and self._staging is not None:
            self._staging.join()
            self._staging = None
            filled, self._filling = self._filling, None
            if self._stage_result[0] == "done":
                self._staged = filled
            else:
                self._spare = filled
        return self._stage_result

    def slipstream_commit(self) -> tuple[str, str]:
        """Make the staged weights live and keep the old ones. (`done`, fingerprint) or (`failed`, why)."""
        staged = self._staged
        if staged is None:
            return "failed", "nothing is staged on this rank"
        result = self._exchange(staged)
        if self._exchanged is not None:
            self._spare, self._previous, self._staged = self._previous or self._spare, staged, None
        return result

    def slipstream_roll_back(self) -> tuple[str, str]:
        """Make the weights before the last commit live again. Results as of `slipstream_commit`."""
        previous = self._previous
        if previous is None:
            return "failed", "no earlier weights on this rank"
        result = self._exchange(previous)
        if self._exchanged is not None:
            self._spare, self._previous = self._spare or previous, None
        return result

    def slipstream_undo(self) -> tuple[str, str]:
        """Take back this rank's part of a swap that failed on some rank; afterwards there is no roll-back."""
        exchanged, self._previous = self._exchanged, None
        if exchanged is None:
            return "done", live_fingerprint(self._model)
        self._spare = exchanged
        return self._exchange(exchanged)

    @property
    def _model(self) -> torch.nn.Module:
        model: torch.nn.Module = self.model_runner.get_model()
        return model

    def _exchange(self, shadow: Shadow) -> tuple[str, str]:
        self._exchanged = None
        try:
            shadow.exchange()
            self._exchanged = shadow
            return "done", live_fingerprint(self._model)
        except Exception as error:  # noqa: BLE001 (the engine decides, on all ranks' results)
            return "failed", f"{type(error).__name__}: {error}"

    def _fill(self, path: str) -> None:
        """In the staging thread."""
        try:
            own = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, min(19, os.getpriority(os.PRIO_PROCESS, own) + _STEP_BACK))
            shadow, self._spare = self._spare or Shadow(self._model), None
            self._filling = shadow
            device = next(self._model.parameters()).device
            with torch.no_grad(), _copy_stream(device), safe_open(path, framework="pt") as file:
                shadow.load((name, file.get_tensor(name)) for name in file.offset_keys())
                digest = shadow.fingerprint()
            self._stage_result = ("done", digest)
        except Exception as error:  # noqa: BLE001 (the engine reports a refused release)
            self._stage_result = ("failed", f"{type(error).__name__}: {error}")


def _copy_stream(device: torch.device) -> Any:
    """A stream of its own on a GPU, so that copies do not queue behind the model's steps."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.cuda.stream(torch.cuda.Stream(device))
