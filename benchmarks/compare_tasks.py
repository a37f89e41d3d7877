"""Every causal task on a small real model: zero-shot, in-context, tuned; speed and exactness of the evaluation.

    python benchmarks/compare_tasks.py --model DIR/opt-mini --data-dir DATA [--only TASK ...] [--threads 1]

For each task: the model as it is, with as many demonstrations as fit, and after 300 steps of MeZO, at the better of
two learning rates by dev loss. Test rows are then scored one candidate at a time, without padding and with all
logits, as the published code does: the table has the largest difference of a score. Rows are appended to
results/tasks.csv as they come, and a task that is there is not measured again; afterwards (with --page: only this)
docs/compared-tasks.md is written from them and from what evaluation_speed.py has measured.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import evaluation_speed
from command import parse
from ledger import append_rows, commit_stamp, read_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "tasks.csv"
PAGE = ROOT / "docs" / "compared-tasks.md"

NUM_ROWS = 200
"""Training and test rows, each."""
NUM_DEV = 100
FEWER = {"record": {"num-train": 22, "num-dev": 10}}
"""Tasks of which only a few rows are at hand."""
NUM_ORACLE_ROWS = 60
"""Test rows that are scored both ways."""
STEPS = 300
BATCH_SIZE = 4
RATES = (1e-5, 4e-5)
ZO_EPS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Row:
    """A task's figures; scores are fractions of its metric, except losses.

    `num_cut` counts test rows whose prompt did not fit; `oracle_difference` is the largest difference of a mean
    log-probability.
    """

    task: str
    metric: str
    num_eval: int
    majority: float | str
    zero_shot: float
    zero_shot_loss: float
    demonstrations: float
    in_context: float
    tuned: float
    tuned_loss: float
    lr: float
    seconds_per_step: float
    num_cut: int
    oracle_difference: float
    commit: str


def measure(task: str, options: Namespace) -> Row:
    """Measure one task."""
    from foretune.runs.config import EvaluateConfig
    from foretune.runs.evaluate import evaluate

    shared: dict[str, Any] = {
        "model": options.model,
        "data_dir": options.data_dir,
        "task": task,
        "num_eval": NUM_ROWS,
        "eval_batch_size": 16,
    }
    plain = evaluate(EvaluateConfig(**shared))
    shown = evaluate(EvaluateConfig(**shared, demonstrations="fit"))
    metric = next(iter(plain["metrics"]["model"]))
    tuned, lr = best_run(task, options)
    return Row(
        task=task,
        metric=metric,
        num_eval=plain["num_rows"],
        majority=plain["metrics"]["majority"].get("accuracy", ""),
        zero_shot=plain["metrics"]["model"][metric],
        zero_shot_loss=plain["metrics"]["model"]["loss"],
        demonstrations=shown["demonstrations"],
        in_context=shown["metrics"]["model"][metric],
        tuned=tuned["metrics"]["final"][metric],
        tuned_loss=tuned["metrics"]["final"]["loss"],
        lr=lr,
        seconds_per_step=tuned["seconds_per_step"],
        num_cut=plain["num_cut"],
        oracle_difference=oracle_difference(task, options),
        commit=commit_stamp(),
    )


def best_run(task: str, options: Namespace) -> tuple[dict[str, Any], float]:
    """Tune with every learning rate; return the results of the one with the best dev loss, and the rate."""
    from foretune.cli.train import parse
    from foretune.runs.train import train

    runs = []
    for lr in RATES:
        with TemporaryDirectory() as folder:
            settings = {
                "model": options.model,
                "data-dir": options.data_dir,
                "task": task,
                "lr": lr,
                "zo-eps": ZO_EPS,
                "steps": STEPS,
                "eval-steps": STEPS // 3,
                "batch-size": BATCH_SIZE,
                "num-train": NUM_ROWS,
                "num-dev": NUM_DEV,
                "num-eval": NUM_ROWS,
                "eval-batch-size": 16,
                "output": f"{folder}/run",
            }
            settings |= FEWER.get(task, {})
            results = train(parse([word for name, value in settings.items() for word in (f"--{name}", str(value))]))
            log = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        runs.append((min(line["eval_loss"] for line in log if "eval_loss" in line), lr, results))
    _, lr, results = min(runs, key=lambda run: run[0])
    return results, lr


def oracle_difference(task: str, options: Namespace) -> float:
    """Score the same rows our way and one candidate at a time; return the largest difference."""
    import torch

    case = evaluation_speed.Case.of_checkpoint(options.model, task, options.data_dir, NUM_ORACLE_ROWS)
    return max(
        float((torch.tensor(theirs) - ours).abs().max())
        for ours, theirs in zip(case.score(), case.score_one_by_one(), strict=True)
    )


PREFACE = f"""# The tasks on a small model

Written by `python benchmarks/compare_tasks.py` from benchmarks/results/tasks.csv. opt-mini, a 4 M parameter OPT
pre-trained on reviews with room for 512 tokens, is far too small for most of these tasks: the table shows that each
of them runs, what its evaluation costs and that it is exact, not what ZO can do. {NUM_ROWS} training and test rows
(fewer where a task has fewer), MeZO with {STEPS} steps of {BATCH_SIZE} rows, zo_eps {ZO_EPS:g}, the better of lr
{RATES[0]:g} and {RATES[1]:g} by dev loss, one seed: with 200 rows a difference below 7 points is noise.

Figures are the task's metric x 100, with the loss of the training objective in brackets. *Shots*: whole
demonstrations in front of a test row, on average: as many as fit, at most 32. *Cut*: test rows whose prompt was
longer than the context and lost tokens on the left. *Error*: largest difference of a mean log-probability from
scoring one candidate at a time, without padding and with all logits ({NUM_ORACLE_ROWS} rows). *S/step* was
taken with one thread on a machine that other work shared: it is rough.

| task | metric | rows | majority | zero-shot | in context | shots | MeZO | lr | s/step | cut | error |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def write_page() -> None:
    """Write docs/compared-tasks.md from the rows there are."""
    lines = [PREFACE]
    for row in sorted(read_rows(RESULTS, Row), key=lambda row: row.task):
        cells = [
            row.task,
            row.metric,
            str(row.num_eval),
            f"{100 * row.majority:.1f}" if isinstance(row.majority, float) else "",
            f"{100 * row.zero_shot:.1f} ({row.zero_shot_loss:.3f})",
            f"{100 * row.in_context:.1f}",
            f"{row.demonstrations:.1f}",
            f"{100 * row.tuned:.1f} ({row.tuned_loss:.3f})",
            f"{row.lr:g}",
            f"{row.seconds_per_step:.3f}",
            str(row.num_cut),
            f"{row.oracle_difference:.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    PAGE.write_text("\n".join([*lines, "", *evaluation_speed.section()]) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write the page."""
    options = parse(
        __doc__.splitlines()[0],
        arguments,
        only="TASK",
        add=lambda parser: parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch"),
    )
    if not options.page:
        import torch

        from foretune.cli.display import quiet_libraries
        from foretune.tasks import get_task, list_tasks

        torch.set_num_threads(options.threads)
        quiet_libraries()
        done = {row.task for row in read_rows(RESULTS, Row)}
        for task in options.only or [name for name in list_tasks() if get_task(name).templates]:
            if task not in done:
                row = measure(task, options)
                append_rows(RESULTS, [row])
                print(f"{task}: {row.metric} {row.zero_shot:.3f} -> {row.tuned:.3f}", flush=True)
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
