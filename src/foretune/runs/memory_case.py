"""Peak memory and time of one way to train one model, measured in a process of its own.

A process's peak includes its libraries, what compiling kernels took, and what building the model took for a moment.
So the process loads all it will need on a small model first, builds the model, resets the high-water mark of its
resident memory, and only then runs. The allocators, that of C and that of the matrix product (MKL keeps its buffers),
are told to give back what is freed: otherwise the peak would be that of their habits. On a GPU the allocator's own peak
is read.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from foretune.adapters import make_tuning
from foretune.errors import UsageError
from foretune.methods import AbstractFirstOrder, AbstractMethod, HybridRecipe, make_recipe
from foretune.objectives.masked_head import find_masked_head
from foretune.objectives.split_head import find_split_head
from foretune.objectives.tied_head import find_tied_head
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.runs.config import DType, Engine, ProbedObjective
from foretune.runs.loading import model_kind
from foretune.runs.shapes import load_shape, model_class, random_model
from foretune.runs.synthetic import masked_probe_loss, probe_loss, synthetic_rows

INFERENCE = "inference"
"""The method that trains nothing."""
OUT_OF_MEMORY = "out of memory"

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_MEMORY = Path("/proc/meminfo")
_LR = 1e-7
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_RETURNED_BYTES, _KEPT_BYTES = 1 << 16, 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured.

    Attributes:
        model: A shape, a local folder or a hub id; its weights are random.
        method: Name of a method or first-order baseline, or `INFERENCE`.
        tuning: Name of a tuning scheme.
        batch_size, sequence_length: Rows and tokens of random ids.
        objective, dtype, engine, device: As in `foretune estimate`; dtype and device are no longer auto.
        steps: Steps that are timed, after two that are not.
    """

    model: str
    method: str
    tuning: str
    batch_size: int
    sequence_length: int
    objective: ProbedObjective
    dtype: DType
    engine: Engine
    device: str
    steps: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found; `failure` says why it is nothing.

    Attributes:
        process_bytes: Resident memory before the model is built; 0 on a GPU.
        peak_bytes: At most while steps run, `process_bytes` not included.
        seconds_per_step: Median; 0 where no step was timed.
        failure: `OUT_OF_MEMORY`, or the error's last line; empty otherwise.
    """

    process_bytes: int = 0
    peak_bytes: int = 0
    seconds_per_step: float = 0.0
    failure: str = ""


def check_supported(device: str) -> None:
    """Refuse machines on which resident memory has no high-water mark that can be reset.

    Raises:
        UsageError: it is not Linux, and no GPU is asked for.
    """
    if not device.startswith("cuda") and not (_STATUS.exists() and _CLEAR.exists()):
        raise UsageError("Peak memory on a CPU can be measured on Linux only; use --device cuda.")


def measure(case: Case) -> Measured:
    """Run a case in a process of its own, which may take all memory that is free and no more."""
    environment = {
        **os.environ,
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MKL_DISABLE_FAST_MM": "1",
    }
    child = subprocess.run(
        [sys.executable, "-m", "foretune.runs.memory_case", json.dumps(asdict(case))],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if child.returncode == 0:
        return Measured(**json.loads(child.stdout.splitlines()[-1]))
    if child.returncode < 0:  # killed, as the kernel does where memory runs out
        return Measured(failure=OUT_OF_MEMORY if child.returncode == -9 else f"killed by signal {-child.returncode}")
    return Measured(failure=(child.stderr.strip().splitlines() or ["failed"])[-1])


def run_case(case: Case) -> Measured:
    """Run a case in this process, which must be a fresh one."""
    device = torch.device(case.device)
    if device.type == "cpu":
        _limit_memory()
        _set_malloc(returned_from=_RETURNED_BYTES)
    config = load_shape(case.model)
    model_class(config)._model_mapping[type(config)]  # imports its code
    small = load_shape("mini-masked" if model_kind(config) == "masked" else "mini")
    _steps(case, small, num_rows=2, length=16, measure=_Memory(device), timed=0)
    return _steps(
        case,
        config,
        num_rows=case.batch_size,
        length=case.sequence_length,
        measure=_Memory(device),
        timed=case.steps,
    )


class _Memory:
    """The peak of a device, from a moment on."""

    def __init__(self, device: torch.device) -> None:
        self._is_gpu = device.type == "cuda"
        gc.collect()
        if not self._is_gpu:
            _trim_malloc()
        self.before_bytes = 0 if self._is_gpu else _status_bytes("VmRSS")

    def start(self) -> None:
        """Forget earlier peaks."""
        if self._is_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            _trim_malloc()
            _CLEAR.write_text("5")  # resets the high-water mark to the present size

    def stop(self) -> int:
        """Return the peak."""
        if self._is_gpu:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        return _status_bytes("VmHWM") - self.before_bytes


def _steps(
    case: Case, config: PreTrainedConfig, *, num_rows: int, length: int, measure: _Memory, timed: int
) -> Measured:
    """Build the model, take two steps for the peak, then those that are timed."""
    device = torch.device(case.device)
    base = random_model(config, dtype=getattr(torch, case.dtype), device=device)
    model = make_tuning({"name": case.tuning}).attach(base, seed=0).eval()
    rows = synthetic_rows(config, num_rows=num_rows, length=length)
    if model_kind(config) == "masked":
        loss = masked_probe_loss(rows, model, find_masked_head(model))
    else:
        loss = probe_loss(case.objective, rows, model, find_split_head(model), find_tied_head(model))
    step = _step_of(case, model, loss)
    measure.start()
    for _ in range(2):  # the first step chooses the engine and makes the state
        step()
    peak = measure.stop()
    if timed:
        _set_malloc(returned_from=_KEPT_BYTES)  # as it is used to
    seconds = []
    for _ in range(timed):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    median = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
    return Measured(measure.before_bytes, peak, median)


def _step_of(case: Case, model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], Any]:
    if case.method == INFERENCE:
        return torch.inference_mode()(lambda: loss().item())
    recipe = make_recipe(case.method, {"lr": _LR}, total_steps=1000, tuning=case.tuning)
    if isinstance(recipe, AbstractMethod):
        optimizer = Optimizer(model, **recipe.optimizer_arguments(), engine=case.engine)
        return lambda: optimizer.step(loss)
    if isinstance(recipe, HybridRecipe):
        hybrid = recipe.optimizer(model, engine=case.engine)
        return lambda: hybrid.step(loss)
    assert isinstance(recipe, AbstractFirstOrder)
    model.train(not recipe.fo_eval_mode)
    first_order = recipe.optimizer(collect_trainables(model))

    def step() -> None:
        loss().backward()
        if recipe.max_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        first_order.step()
        first_order.zero_grad()

    return step


# ---------------------------------------------------------------- the process


def _status_bytes(name: str) -> int:
    return _kibibytes(_STATUS, name)


def _kibibytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _limit_memory() -> None:
    """Let allocations fail that would take more than is free, before the kernel kills whom it likes."""
    if _MEMORY.exists():
        free = _kibibytes(_MEMORY, "MemAvailable")
        resource.setrlimit(resource.RLIMIT_DATA, (free, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _set_malloc(*, returned_from: int) -> None:
    """Have glibc give freed blocks of this size back to the system."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, returned_from)
        libc.mallopt(_M_TRIM_THRESHOLD, returned_from)


def _trim_malloc() -> None:
    """Have glibc give back what it has kept."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def main() -> None:
    """Run the case of the command line, and print what was found as JSON."""
    case = Case(**json.loads(sys.argv[1]))
    try:
        measured = run_case(case)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        measured = Measured(failure=OUT_OF_MEMORY)
    sys.stdout.write(json.dumps(asdict(measured)) + "\n")


if __name__ == "__main__":
    main()
