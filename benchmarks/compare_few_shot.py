"""The few-shot setting of masked language models on a small RoBERTa: k rows of each class, five data seeds.

    python benchmarks/pretrain_masked.py DATA MODEL
    python benchmarks/compare_few_shot.py --model MODEL --data-dir DATA [--only TASK ...] [--shots 16]

For each task with a prompt for masked models and each published data seed: MeZO, the model of the best dev
accuracy, its test accuracy. Rows are appended to results/few_shot.csv as they come, and a run that is there is not
made again; afterwards (with --page: only this) docs/compared-few-shot.md is written from them.
"""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from command import parse
from ledger import append_rows, commit_stamp, read_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "few_shot.csv"
PAGE = ROOT / "docs" / "compared-few-shot.md"
STEPS = 200
BATCH_SIZE = 64
LR = 3e-4
ZO_EPS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run: rows that were trained on and tested, accuracies on test rows, and the step whose model was chosen."""

    task: str
    shots: int
    seed: int
    num_train: int
    num_eval: int
    majority: float
    zero_shot: float
    tuned: float
    step: int
    commit: str


def run(task: str, shots: int, seed: int, options: Namespace) -> Row:
    """Make one run in a folder that is thrown away; return its row."""
    from foretune.cli.train import parse
    from foretune.runs.train import train

    with TemporaryDirectory() as folder:
        settings = {
            "model": options.model,
            "data-dir": options.data_dir,
            "task": task,
            "shots": shots,
            "train-set-seed": seed,
            "seed": seed,
            "lr": LR,
            "zo-eps": ZO_EPS,
            "steps": STEPS,
            "eval-steps": STEPS // 10,
            "batch-size": BATCH_SIZE,
            "output": f"{folder}/run",
        }
        results = train(parse([word for name, value in settings.items() for word in (f"--{name}", str(value))]))
    metrics = results["metrics"]
    return Row(
        task=task,
        shots=shots,
        seed=seed,
        num_train=results["num_rows"]["train"],
        num_eval=results["num_rows"]["eval"],
        majority=metrics["majority"]["accuracy"],
        zero_shot=metrics["zero_shot"]["accuracy"],
        tuned=metrics["final"]["accuracy"],
        step=results["final_model"]["step"],
        commit=commit_stamp(),
    )


PREFACE = f"""# Few-shot classification with a masked model

Written by `python benchmarks/compare_few_shot.py` from benchmarks/results/few_shot.csv: the RoBERTa protocol of the
papers (label words at a mask, k rows of each class for training and as many for dev, data seeds 13, 21, 42, 87, 100,
the model of the best dev accuracy) on a RoBERTa of 4 layers that `benchmarks/pretrain_masked.py` made in minutes. It
knows next to nothing: this shows that the protocol runs from rows to mean and spread, not what RoBERTa-large would
do. MeZO, lr {LR:g}, zo_eps {ZO_EPS:g}, {STEPS} steps (published: 100,000) of up to {BATCH_SIZE} rows. Accuracy on test
rows x 100; mean and population standard deviation over the seeds.

| task | k | training rows | test rows | majority | zero-shot | MeZO | seeds |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def write_page() -> None:
    """Write docs/compared-few-shot.md from the rows there are."""
    rows, lines = read_rows(RESULTS, Row), [PREFACE]
    for task, shots in sorted({(row.task, row.shots) for row in rows}):
        of_task = [row for row in rows if (row.task, row.shots) == (task, shots)]
        tuned = [100 * row.tuned for row in of_task]
        cells = [
            task,
            str(shots),
            str(of_task[0].num_train),
            str(of_task[0].num_eval),
            f"{100 * of_task[0].majority:.1f}",
            f"{100 * of_task[0].zero_shot:.1f}",
            f"{statistics.fmean(tuned):.1f} ± {statistics.pstdev(tuned):.1f}",
            str(len(tuned)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    PAGE.write_text("\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write the page."""
    options = parse(
        __doc__.splitlines()[0],
        arguments,
        only="TASK",
        add=lambda parser: parser.add_argument("--shots", type=int, default=16, help="rows of each class"),
    )
    if not options.page:
        from foretune.cli.display import quiet_libraries
        from foretune.data.few_shot import DATA_SEEDS
        from foretune.tasks import get_task, list_tasks

        quiet_libraries()
        done = {(row.task, row.shots, row.seed) for row in read_rows(RESULTS, Row)}
        for task in options.only or [name for name in list_tasks() if get_task(name).masked is not None]:
            for seed in DATA_SEEDS:
                if (task, options.shots, seed) not in done:
                    row = run(task, options.shots, seed, options)
                    append_rows(RESULTS, [row])
                    print(f"{task} {seed}: {row.zero_shot:.3f} -> {row.tuned:.3f}", flush=True)
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
