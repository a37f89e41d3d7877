"""Time an element of noise takes: `foretune.noise` against a copy, and against `torch.normal` and an addition.

    python benchmarks/noise.py [--elements 16777216] [--rounds 9] [--device cuda] [--csv results/noise.csv]

The cases of a round run one after the other, so that what slows the machine down for a while slows all of
them; the table shows medians over rounds, ratios are taken within them. All work in place on one tensor, but for the
last, which is many small ones. Bandwidth counts what a case has to move: an element read and written, or written alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ledger import append_rows, check_columns
from torch import Tensor

from foretune.noise import Law, Noise, Purpose, add, add_low_rank, fill, mix
from foretune.runs.loading import resolve_device
from foretune.runs.provenance import Provenance
from foretune.runs.timing import Case, Clock, Spread, interleave, timed

BASELINE = "torch.normal + add"
COPY = "copy"
SMALL = ", 200 small"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NUM_SMALL, SMALL_ELEMENTS = 200, 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Provenance):
    """One case on one dtype: a row of results/noise.csv.

    Attributes:
        device, dtype, elements: What is worked on.
        case: What is done.
        nanoseconds, low, high, n: An element; median, 20 and 80 % quantiles, rounds.
        gigabytes_per_second: That are moved; median.
        of_copy: Bandwidth, as a share of a copy's; median ratio within rounds.
        speed_up: Time of `torch.normal` + add over this one's; median ratio within rounds.
    """

    device: str
    dtype: str
    elements: int
    case: str
    nanoseconds: float
    low: float
    high: float
    n: int
    gigabytes_per_second: float
    of_copy: float
    speed_up: float


@dataclass(frozen=True, slots=True)
class Work:
    """What is timed, on how many elements, and how often each of them is read or written."""

    elements: int
    accesses: int
    run: Callable[[], object]


def measure(
    elements: int = 1 << 24,
    rounds: int = 9,
    device: torch.device | str = "cpu",
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> list[Row]:
    """Return one row a case and dtype.

    Args:
        elements: Elements of the large tensor; a square of a whole number.
        rounds: Repetitions.
        device: Where the tensors are.
        dtypes: Of the tensors.
    """
    device = torch.device(device)
    clock, about = Clock(device), asdict(Provenance.here(device)) | {"device": device.type}
    rows = []
    for dtype in dtypes:
        works = _works(elements, dtype, device)
        cases: dict[str, Case] = {name: timed(work.run, clock) for name, work in works.items()}
        measured = interleave(cases, rounds)
        seconds = {name: [found["step"] / works[name].elements for found in measured[name]] for name in works}
        for name, work in works.items():
            spread = Spread.of([1e9 * value for value in seconds[name]])
            baseline = seconds[BASELINE + (SMALL if name.endswith(SMALL) else "")]
            per_access = [value / work.accesses for value in seconds[name]]
            copied = [value / works[COPY].accesses for value in seconds[COPY]]
            rows.append(
                Row(
                    **about,
                    dtype=str(dtype).removeprefix("torch."),
                    elements=work.elements,
                    case=name,
                    nanoseconds=spread.value,
                    low=spread.low,
                    high=spread.high,
                    n=spread.n,
                    gigabytes_per_second=work.accesses * dtype.itemsize / spread.value,
                    of_copy=Spread.of_ratio(copied, per_access).value,
                    speed_up=Spread.of_ratio(baseline, seconds[name]).value,
                )
            )
    return rows


def _works(elements: int, dtype: torch.dtype, device: torch.device) -> dict[str, Work]:
    """Return the cases by name."""
    side = int(elements**0.5)
    weight, copy = (torch.zeros(side, side, dtype=dtype, device=device) for _ in range(2))
    left, right = (torch.randn(side, 8, device=device) for _ in range(2))
    small = [torch.zeros(SMALL_ELEMENTS, dtype=dtype, device=device) for _ in range(NUM_SMALL)]
    z = Noise(mix(0, 0), 1, Purpose.DIRECTION)
    bits = Noise(mix(0, 0), 1, Purpose.DIRECTION, Law.RADEMACHER)
    rounding = Noise(mix(0, 0), 1, Purpose.PERTURBATION_ROUNDING)

    def perturb(tensor: Tensor, *addresses: Noise) -> None:
        add(tensor, tensor, noise=[(1e-3, address) for address in addresses], rounding=rounding)

    def perturb_with_torch(tensor: Tensor) -> None:
        tensor.add_(torch.normal(0.0, 1.0, tensor.shape, dtype=dtype, device=device), alpha=1e-3)

    count, small_count = weight.numel(), NUM_SMALL * SMALL_ELEMENTS
    return {
        BASELINE: Work(count, 2, lambda: perturb_with_torch(weight)),
        COPY: Work(count, 2, lambda: copy.copy_(weight)),
        "fill": Work(count, 1, lambda: fill(weight, z)),
        "add, gaussian": Work(count, 2, lambda: perturb(weight, z)),
        "add, rademacher": Work(count, 2, lambda: perturb(weight, bits)),
        "add, 4 gaussian": Work(count, 2, lambda: perturb(weight, z, z, z, z)),
        "add_low_rank, rank 8": Work(count, 2, lambda: add_low_rank(weight, weight, left, right, rounding=rounding)),
        BASELINE + SMALL: Work(small_count, 2, lambda: [perturb_with_torch(t) for t in small]),
        "add, gaussian" + SMALL: Work(small_count, 2, lambda: [perturb(t, z) for t in small]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and append it where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=1 << 24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--csv", type=Path, help="file to append to")
    options = parser.parse_args(arguments)
    if options.csv is not None:
        check_columns(options.csv, Row)
    rows = measure(options.elements, options.rounds, resolve_device(options.device))
    print(f"{rows[0].machine}, {rows[0].threads} threads")
    print(f"{'case':<32}{'dtype':<10}{'elements':>12}{'median':>10}{'':>9}{'of copy':>9}{'speed-up':>10}")
    for row in rows:
        print(
            f"{row.case:<32}{row.dtype:<10}{row.elements:>12,}{row.nanoseconds:>7.3f} ns"
            f"{row.gigabytes_per_second:>4.0f} GB/s{row.of_copy:>9.0%}{row.speed_up:>9.1f}x"
        )
    if options.csv is not None:
        append_rows(options.csv, rows, digits=6)


if __name__ == "__main__":
    main()
