"""Time an element of noise takes: `foretune.noise` against `torch.normal` and an addition.

    python benchmarks/noise.py [--elements 16777216] [--rounds 9]

The cases of a round run one after the other, so that what slows the machine down for a while slows all of
them; the table shows medians over rounds. All work in place on one tensor, but for the last, which is many
small ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foretune.noise import Law, Noise, Purpose, add, add_low_rank, fill, mix

BASELINE = "torch.normal + add"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NUM_SMALL, SMALL_ELEMENTS = 200, 4_096


def measure(elements: int = 1 << 24, rounds: int = 9) -> list[dict[str, Any]]:
    """Return one row a case and dtype.

    Args:
        elements: Elements of the large tensor; a square of a whole number.
        rounds: Repetitions; each row holds their median and their fastest.

    Returns:
        Rows with `case`, `dtype`, `threads`, `elements`, `median_ns` and `fastest_ns` an element, and
        `speedup`: the median of `torch.normal` + add in the same dtype over this median.
    """
    rows = []
    for dtype in DTYPES:
        cases = _cases(elements, dtype)
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _, run in cases.values():
            run()  # compiles, and touches the memory
        for _ in range(rounds):
            for name, (_, run) in cases.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        for name, (count, _) in cases.items():
            per_element = [1e9 * second / count for second in seconds[name]]
            rows.append(
                {
                    "case": name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "threads": torch.get_num_threads(),
                    "elements": count,
                    "median_ns": statistics.median(per_element),
                    "fastest_ns": min(per_element),
                }
            )
        new = rows[-len(cases) :]
        baselines = {row["elements"]: row["median_ns"] for row in new if row["case"].startswith(BASELINE)}
        for row in new:
            row["speedup"] = baselines[row["elements"]] / row["median_ns"]
    return rows


def _cases(elements: int, dtype: torch.dtype) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return each case's number of elements and what to time."""
    side = int(elements**0.5)
    weight, copy = torch.zeros(side, side, dtype=dtype), torch.zeros(side, side, dtype=dtype)
    left, right = torch.randn(side, 8), torch.randn(side, 8)
    small = [torch.zeros(SMALL_ELEMENTS, dtype=dtype) for _ in range(NUM_SMALL)]
    z = Noise(mix(0, 0), 1, Purpose.DIRECTION)
    bits = Noise(mix(0, 0), 1, Purpose.DIRECTION, Law.RADEMACHER)
    rounding = Noise(mix(0, 0), 1, Purpose.PERTURBATION_ROUNDING)

    def perturb(tensor: Tensor, *addresses: Noise) -> None:
        add(tensor, tensor, noise=[(1e-3, address) for address in addresses], rounding=rounding)

    def perturb_with_torch(tensor: Tensor) -> None:
        tensor.add_(torch.normal(0.0, 1.0, tensor.shape, dtype=dtype), alpha=1e-3)

    count, small_count = weight.numel(), NUM_SMALL * SMALL_ELEMENTS
    return {
        BASELINE: (count, lambda: perturb_with_torch(weight)),
        "copy": (count, lambda: copy.copy_(weight)),
        "fill": (count, lambda: fill(weight, z)),
        "add, gaussian": (count, lambda: perturb(weight, z)),
        "add, rademacher": (count, lambda: perturb(weight, bits)),
        "add, 4 gaussian": (count, lambda: perturb(weight, z, z, z, z)),
        "add_low_rank, rank 8": (count, lambda: add_low_rank(weight, weight, left, right, rounding=rounding)),
        f"{BASELINE}, {NUM_SMALL} small": (small_count, lambda: [perturb_with_torch(t) for t in small]),
        f"add, gaussian, {NUM_SMALL} small": (small_count, lambda: [perturb(t, z) for t in small]),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=1 << 24)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"{'case':<32}{'dtype':<10}{'threads':>8}{'elements':>12}{'median':>10}{'fastest':>10}{'speedup':>9}")
    for row in measure(options.elements, options.rounds):
        print(
            f"{row['case']:<32}{row['dtype']:<10}{row['threads']:>8}{row['elements']:>12,}"
            f"{row['median_ns']:>7.2f} ns{row['fastest_ns']:>7.2f} ns{row['speedup']:>8.1f}x"
        )


if __name__ == "__main__":
    main()
