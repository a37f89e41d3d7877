"""Every method on a small real model and task, all with the same number of forward passes.

    python benchmarks/compare_methods.py --model DIR/opt-mini --data-dir DATA [--workers 2] [--only LABEL ...]

For each method and tuning scheme, three learning rates with seed 0; the one with the best dev loss is then run with two
more seeds. Rows are appended to results/methods.csv as they come, and a run that is there is not made again, so the
command goes on where it was stopped. Afterwards (with --page: only this) docs/compared.md is written from the rows.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from command import parse
from ledger import append_rows, commit_stamp, read_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "methods.csv"
PAGE = ROOT / "docs" / "compared.md"

NUM_FORWARDS = 800
"""Loss evaluations of a run: 400 two-sided steps."""
BACKPROPAGATION_FORWARDS = 3
"""Forward passes that a forward and backward pass count as."""
BATCH_SIZE = 8
SPREAD = 4.0
"""The three learning rates are centre / SPREAD, centre and centre * SPREAD."""
SEEDS = (0, 1, 2)

ZO_EPS = {"full": 1e-3, "lora": 1e-2, "prefix": 1e-1, "prompt": 1e-2}
"""Published perturbation scales of the tuning schemes."""
DESCENT_LR = {"full": 3e-5, "lora": 1e-3, "prefix": 1e-1, "prompt": 1e-2}
"""Centre of the learning rates of methods whose step is proportional to the projected gradient."""
SLOPE = {"full": 12.0, "lora": 1.2, "prefix": 0.12, "prompt": 0.43}
"""Root mean square of MeZO's projected gradients there, measured: methods that divide by it get it in their lr."""
FIRST_ORDER_LR = {"sgd": {"full": 1e-2, "lora": 1e-1}, "adam": {"full": 1e-4, "lora": 1e-3}}
FIRST_ORDER_LR["adamw"] = FIRST_ORDER_LR["adam"]
HYBRID_OPTIONS = ("--method.fo_optimizer", "adam", "--method.fo_lr", "1e-4")
HYBRID_FORWARDS = 4
"""Two of the method, one, and a backward through half of the layers, which costs about another."""


def descent(scheme: str) -> float:
    """Return the centre for a method that steps along its estimate."""
    return DESCENT_LR[scheme]


def normalized(scheme: str) -> float:
    """Return the centre for a method whose step has a size of its own, whatever the slope."""
    return DESCENT_LR[scheme] * SLOPE[scheme]


CENTRES: dict[str, Callable[[str], float]] = {
    "zo_sign": normalized,
    "zo_adam": normalized,
    "fzoo": normalized,
    "es": normalized,
    "eggroll": normalized,
    "zo_momentum": lambda scheme: descent(scheme) / 10,
    "zo_muon": lambda scheme: 10 * normalized(scheme),
}
"""Methods whose learning rate means something else than MeZO's."""

EVERY = ("full", "lora", "prefix", "prompt")
PUBLISHED_SCHEMES = {
    **dict.fromkeys(("mezo", "zo_sign", "zo_momentum", "zo_conservative", "zo_adam", "forward_grad", "subzero"), EVERY),
    "hizoo": ("full", "lora"),
    "zo_adamu": ("full", "lora", "prompt"),
    "zo_muon": ("full", "prompt"),
    "subzero_adamu": ("full", "prompt"),
    "subzero_muon": ("full", "prompt"),
}
"""Tuning schemes that a method was published with; the others are run with the first scheme they are defined for."""

ENHANCEMENTS = {
    "mezo, block-wise (block)": ("--schedule", "module_blocks", "--schedule.level", "block"),
    "mezo, sparsity 0.5": ("--space", "masked", "--space.sparsity", "0.5"),
    "lozo x adam": ("--update", "adam"),
}
"""Compositions that are no method of their own: options of the command, for MeZO or the method that is named first."""


@dataclass(frozen=True)
class Case:
    """A method on a tuning scheme.

    Attributes:
        label: How the table calls it.
        method: Registered name.
        scheme: Tuning scheme.
        lr: Centre of the learning rates.
        options: Further words of the command line.
    """

    label: str
    method: str
    scheme: str
    lr: float
    options: tuple[str, ...] = ()

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that are tried."""
        return tuple(float(f"{self.lr * factor:.3g}") for factor in (1 / SPREAD, 1.0, SPREAD))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run: what was asked for and what came out; empty cells and an error where it failed.

    `zero_shot_*` and `test_*` are of test rows, `dev_*` of the selected evaluation; seconds are of a process with
    one thread beside other processes.
    """

    label: str
    scheme: str
    lr: float
    seed: int
    steps: int
    forwards_per_step: float
    zero_shot_loss: float | str = ""
    zero_shot_accuracy: float | str = ""
    dev_loss: float | str = ""
    dev_accuracy: float | str = ""
    test_loss: float | str = ""
    test_accuracy: float | str = ""
    seconds_per_step: float | str = ""
    state_bytes: int | str = ""
    peak_memory_bytes: int | str = ""
    error: str = ""
    commit: str = ""

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What makes it the same run."""
        return self.label, self.scheme, self.lr, self.seed


def cases() -> list[Case]:
    """List what is compared: every method on its schemes, compositions, first-order baselines."""
    from foretune.methods import METHODS

    found = []
    for name in METHODS:
        recipe = METHODS.get(name)
        for scheme in PUBLISHED_SCHEMES.get(name, recipe.schemes[:1]):
            centre = CENTRES.get(name, descent)(scheme)
            has_zo_eps = any(field.name == "zo_eps" for field in fields(recipe))
            options = ("--zo-eps", str(ZO_EPS[scheme])) if has_zo_eps else ()
            found.append(Case(name, name, scheme, centre, options))
    for label, options in ENHANCEMENTS.items():
        method = label.replace(",", " ").split()[0]
        centre = normalized("full") if "adam" in options else descent("full")
        found.append(Case(label, method, "full", centre, options))
    found.append(Case("hybrid", "hybrid", "full", descent("full"), HYBRID_OPTIONS))
    for name, rates in FIRST_ORDER_LR.items():
        found += [Case(name, name, scheme, lr) for scheme, lr in rates.items()]
    return found


def run(case: Case, lr: float, seed: int, model: str, data_dir: str) -> Row:
    """Make one run in a folder that is thrown away."""
    import torch

    from foretune.cli.display import quiet_libraries
    from foretune.cli.train import parse
    from foretune.errors import ForetuneError
    from foretune.runs.train import train

    torch.set_num_threads(1)
    quiet_libraries()
    forwards = forwards_per_step(case, model)
    steps = max(1, math.floor(NUM_FORWARDS / forwards))
    row = Row(label=case.label, scheme=case.scheme, lr=lr, seed=seed, steps=steps, forwards_per_step=forwards)
    with TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "model": model,
            "data-dir": data_dir,
            "task": "sst2",
            "tuning": case.scheme,
            "method": case.method,
            "lr": lr,
            "seed": seed,
            "steps": steps,
            "eval-steps": max(1, steps // 4),
            "batch-size": BATCH_SIZE,
            "num-dev": 200,
            "num-eval": 872,
            "output": f"{folder}/run",
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        try:
            results = train(parse([*words, *case.options]))
        except ForetuneError as error:
            return replace(row, error=" ".join(str(error).split()))
        log = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    metrics, chosen_step = results["metrics"], results["final_model"]["step"]
    dev = next(line for line in log if line["step"] == chosen_step and "eval_loss" in line)
    return replace(
        row,
        zero_shot_loss=metrics["zero_shot"]["loss"],
        zero_shot_accuracy=metrics["zero_shot"]["accuracy"],
        dev_loss=dev["eval_loss"],
        dev_accuracy=dev["eval_accuracy"],
        test_loss=metrics["final"]["loss"],
        test_accuracy=metrics["final"]["accuracy"],
        seconds_per_step=results["seconds_per_step"],
        state_bytes=results["state_bytes"],
        peak_memory_bytes=results["peak_memory_bytes"],
    )


def forwards_per_step(case: Case, model: str) -> int:
    """Return the forward passes of a step on the model, with the case's options."""
    from foretune.catalogue import adapter_pair, num_forwards, trainables_of
    from foretune.cli.train import parse
    from foretune.methods import METHODS, make_method

    if case.method in FIRST_ORDER_LR:
        return BACKPROPAGATION_FORWARDS
    if case.method == "hybrid":
        return HYBRID_FORWARDS
    config = parse(["--method", case.method, *case.options])
    parts = make_method(case.method, config.method_options, total_steps=NUM_FORWARDS).parts()
    return num_forwards(parts, trainables_of(model) if "full" in METHODS.get(case.method).schemes else adapter_pair())


def best_rate(case: Case, rows: Sequence[Row]) -> float | None:
    """Return the learning rate of the best dev loss with the first seed; None if every run failed."""
    tried = [row for row in rows if (row.label, row.scheme, row.seed) == (case.label, case.scheme, SEEDS[0])]
    usable = [row for row in tried if isinstance(row.dev_loss, float) and math.isfinite(row.dev_loss)]
    return min(usable, key=lambda row: row.dev_loss).lr if usable else None


def measure(options: Namespace, chosen: Sequence[Case]) -> None:
    """Make every run that is not in the file, a process each."""
    commit = commit_stamp()
    done = {row.key for row in read_rows(RESULTS, Row)}
    # every run forks from a server that has only imported: no kernel has run in it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["foretune.runs.train", "foretune.cli.train", "foretune.catalogue"])

    def make(jobs: list[tuple[Case, float, int]]) -> None:
        jobs = [job for job in jobs if (job[0].label, job[0].scheme, job[1], job[2]) not in done]
        with ProcessPoolExecutor(options.workers, mp_context=context, max_tasks_per_child=1) as pool:
            futures = [pool.submit(run, *job, options.model, options.data_dir) for job in jobs]
            for number, future in enumerate(as_completed(futures), start=1):
                row = replace(future.result(), commit=commit)
                append_rows(RESULTS, [row])
                accuracy = f"test accuracy {row.test_accuracy:.3f}" if not row.error else row.error
                print(
                    f"{number}/{len(jobs)} {row.label}/{row.scheme} lr {row.lr:g} seed {row.seed}: {accuracy}",
                    flush=True,
                )

    for scheme in ZO_EPS:  # a scheme after the other, so that one that was stopped leaves whole tables
        of_scheme = [case for case in chosen if case.scheme == scheme]
        make([(case, lr, SEEDS[0]) for case in of_scheme for lr in case.rates])
        rows = read_rows(RESULTS, Row)
        rates = {case: best_rate(case, rows) for case in of_scheme}
        make([(case, lr, seed) for case, lr in rates.items() if lr is not None for seed in SEEDS[1:]])


def write_page(chosen: Sequence[Case]) -> None:
    """Write docs/compared.md from the rows there are, and name what is not measured yet."""
    rows = read_rows(RESULTS, Row)
    header = "| method | tuning | lr | steps | loss drop | dev | test | s a step | state | peak |"
    lines = [PREFACE, header, f"|{' --- |' * 10}"]
    missing = []
    for case in chosen:
        of_case = [row for row in rows if (row.label, row.scheme) == (case.label, case.scheme)]
        tried = {row.lr for row in of_case if row.seed == SEEDS[0]}
        lr = best_rate(case, rows)
        if not set(case.rates) <= tried:
            missing.append(f"{case.label} ({case.scheme})")
        elif lr is None:
            lines.append(f"| {case.label} | {case.scheme} | | | failed: {of_case[0].error} | | | | | |")
        else:
            runs = [row for row in of_case if row.lr == lr and not row.error]
            lines.append(f"| {' | '.join(_cells(case, lr, runs))} |")
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    PAGE.write_text("\n".join(lines) + "\n")


def _cells(case: Case, lr: float, runs: Sequence[Row]) -> list[str]:
    """Return a line of the table: means over the runs with the chosen learning rate."""
    mean = statistics.fmean
    test = [100 * row.test_accuracy for row in runs]
    spread = f"{min(test):.1f}-{max(test):.1f}, {len(test)} seeds" if len(test) > 1 else "1 seed"
    return [
        case.label,
        case.scheme,
        f"{lr:g}",
        str(runs[0].steps),
        f"{mean(row.zero_shot_loss - row.test_loss for row in runs):.4f}",
        f"{100 * mean(row.dev_accuracy for row in runs):.1f}",
        f"{mean(test):.1f} ({spread})",
        f"{mean(row.seconds_per_step for row in runs):.3f}",
        f"{runs[0].state_bytes / 1e6:.2f} MB",
        f"{max(row.peak_memory_bytes for row in runs) / 2**20:.0f} MiB",
    ]


PREFACE = """# The methods compared

Written by `python benchmarks/compare_methods.py` from benchmarks/results/methods.csv (every run, failed ones too, with
its commit). A 4 M parameter OPT pre-trained on reviews, SST-2, 800 forward passes a run (400 two-sided steps), batch 8.
A step of backpropagation counts as three passes, one of hybrid training as four; a forward with exact slopes counts as
one, although it does about twice the work. Three learning rates, a factor 4 apart, with seed 0; the one with the best
dev loss (200 rows) was run with two more seeds. Loss drop and test accuracy: means on the 872 validation rows, with the
range over seeds. Two processes with a thread each shared two cores with other work, so seconds are rough; peak memory
is that of the whole process.

The base model has a test accuracy of 64.6 % and a loss of 0.6247. Few steps, one small model and one task: this shows
that each method works and what it costs, not which is best. Dev rows come from the training split, on whose phrases
the base model is right less often (54 % of 200), and so few of them choose a learning rate with much noise: for some
methods one that makes the test loss worse. All rates tried are in the CSV file.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write the page."""
    options = parse(
        __doc__.splitlines()[0],
        arguments,
        only="LABEL",
        add=lambda parser: parser.add_argument("--workers", type=int, default=2),
    )
    if not options.page:
        measure(options, [case for case in cases() if not options.only or case.label in options.only])
    write_page(cases())
    return 0


if __name__ == "__main__":
    sys.exit(main())
