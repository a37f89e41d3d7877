"""Peak memory of inference and of whole steps, each in a process of its own.

A process's peak includes its libraries, which are larger when kernels are compiled, and what building the
model took for a moment. So a child loads everything it will need on a small tensor first, builds the model,
resets the high-water mark, and only then runs; the peak and its part above the libraries are reported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from workload import EQUAL_LENGTHS, SHAPES, Shape, build_model, make_rows

import foretune
from foretune.noise import Noise, Purpose, add
from foretune.objectives import ClassificationObjective, find_tied_head

INFERENCE = "inference"
LAYERWISE = "mezo/layerwise"
IN_PLACE = "mezo/in_place"
CASES = (INFERENCE, LAYERWISE, IN_PLACE)

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes of resident memory of one process: before the model is built, and at most while it ran."""

    libraries_bytes: int
    peak_bytes: int

    @property
    def own_bytes(self) -> int:
        """The peak above the libraries: weights, activations, scratch."""
        return self.peak_bytes - self.libraries_bytes


def measure(shape: str, dtype: str) -> dict[str, Peak]:
    """Run each case in a child process (at the same time: memory, unlike speed, does not mind).

    Raises:
        RuntimeError: a child failed, with what it wrote.
    """
    children = {
        case: subprocess.Popen(
            [sys.executable, __file__, "--case", case, "--shape", shape, "--dtype", dtype],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for case in CASES
    }
    peaks = {}
    for case, child in children.items():
        output, errors = child.communicate()
        if child.returncode != 0:
            raise RuntimeError(f"The memory measurement of {case!r} ended with status {child.returncode}:\n{errors}")
        peaks[case] = Peak(**json.loads(output.splitlines()[-1]))
    return peaks


def is_supported() -> bool:
    """Whether the high-water mark can be read and reset (Linux)."""
    return _STATUS.exists() and _CLEAR.exists()


def run_case(case: str, shape_name: str, dtype: str) -> Peak:
    """Run one case in this process, which must be a fresh one."""
    dtype = getattr(torch, dtype)
    _run_twice(case, SHAPES["tiny"], build_model(SHAPES["tiny"], dtype))  # loads what the measured run needs
    if case != INFERENCE:
        large = torch.zeros(1 << 18, dtype=dtype)  # enough elements for the parallel kernel
        noise = Noise(0, 0, Purpose.DIRECTION)
        add(large, large, noise=((1.0, noise),), rounding=noise)
    libraries_bytes = _status_bytes("VmRSS")
    shape = SHAPES[shape_name]
    model = build_model(shape, dtype)
    _CLEAR.write_text("5")  # resets the high-water mark to the present size
    _run_twice(case, shape, model)
    return Peak(libraries_bytes, _status_bytes("VmHWM"))


def _run_twice(case: str, shape: Shape, model: nn.Module) -> None:
    """Two forwards, or two steps (the first of which includes the audit)."""
    objective = ClassificationObjective(find_tied_head(model))
    batch = objective.collate(make_rows(shape, EQUAL_LENGTHS))
    if case == INFERENCE:
        with torch.inference_mode():
            for _ in range(2):
                objective.loss(model, batch)
    else:
        optimizer = foretune.MeZO(model, lr=1e-7, engine=case.partition("/")[2])
        for _ in range(2):
            optimizer.step(lambda: objective.loss(model, batch))


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def main() -> None:
    """Run one case and print its figures as JSON."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--dtype", required=True)
    arguments = parser.parse_args()
    peak = run_case(arguments.case, arguments.shape, arguments.dtype)
    print(json.dumps({"libraries_bytes": peak.libraries_bytes, "peak_bytes": peak.peak_bytes}))


if __name__ == "__main__":
    main()
