"""How fast test rows are scored, beside one candidate at a time, without padding and with all logits.

    python benchmarks/evaluation_speed.py --model DIR/opt-mini --data-dir DATA [--only TASK ...] [--shape opt-125m]

Both ways score the same rows in turns, in one process; the median ratio of the rounds is kept. The ratio of their
arithmetic (matrix products, counted by PyTorch) says what a machine without caches and call overheads would show.
With --shape, a model of that shape with random weights reads the rows, tokenized by the --model's tokenizer. Figures
are appended to results/evaluation.csv; compare_tasks.py puts the latest ones into docs/compared-tasks.md.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ledger import Ledger, Row, read_rows
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from workload import SHAPES, build_model

from foretune.runs.timing import Spread, interleave, timed

RESULTS = Path(__file__).resolve().parent / "results" / "evaluation.csv"

NUM_ROWS = 60
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Case:
    """Encoded test rows of a task and the model that reads them."""

    model: nn.Module
    rows: Sequence[Any]
    scorer: Any

    @classmethod
    def of_checkpoint(cls, model: str, task: str, data_dir: str, num_rows: int, *, shape: str | None = None) -> Case:
        """Load a model (or make one of that shape) and encode a task's first test rows with the model's tokenizer."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from foretune.data import load_task_data
        from foretune.objectives import ClassificationObjective, encode_examples, usable_length

        reader: Any
        if shape is None:
            reader = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        else:
            reader = build_model(SHAPES[shape])
        data = load_task_data(task, data_dir, num_train=0, num_dev=0, num_eval=num_rows)
        tokenizer = AutoTokenizer.from_pretrained(model)
        rows = encode_examples(data.examples(data.evaluation), tokenizer, usable_length(reader))
        return cls(reader, rows, ClassificationObjective.for_model(reader))

    def score(self) -> list[Tensor]:
        """Score all rows our way."""
        from foretune.evaluation import candidate_scores

        return candidate_scores(self.model, self.rows, self.scorer)

    @torch.inference_mode()
    def score_one_by_one(self) -> list[list[float]]:
        """Return each candidate's mean log-probability: a forward of its own, no padding, all logits."""
        return [
            [self._mean_logprob(token_ids, length) for token_ids, length in zip(*options, strict=True)]
            for options in ((row.token_ids, row.option_lengths) for row in self.rows)
        ]

    def _mean_logprob(self, token_ids: Sequence[int], option_length: int) -> float:
        ids = torch.tensor([token_ids])
        logprobs = self.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        return float(logprobs[-option_length:].mean())

    def measure(self, ledger: Ledger, task: str) -> None:
        """Note rows a second, the ratio of the times and that of the arithmetic."""
        measured = interleave({"ours": timed(self.score), "one by one": timed(self.score_one_by_one)}, ROUNDS)
        ours, theirs = ([seconds["step"] for seconds in measured[name]] for name in ("ours", "one by one"))
        lengths = [len(token_ids) for row in self.rows for token_ids in row.token_ids]
        about: dict[str, Any] = {"batch": len(self.rows), "tokens": f"{min(lengths)}-{max(lengths)}"}
        arithmetic = count_flops(self.score_one_by_one) / count_flops(self.score)
        ledger.add(task, "rows a second", Spread.of([len(self.rows) / seconds for seconds in ours]), "1/s", **about)
        ledger.add(task, "one by one over ours", Spread.of_ratio(theirs, ours), "ratio", **about)
        ledger.add(task, "arithmetic, one by one over ours", Spread.of([arithmetic]), "ratio", **about)


def count_flops(action: Any) -> int:
    """Return the operations of an action's matrix products."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


PREFACE = f"""## Speed of the evaluation

Written from benchmarks/results/evaluation.csv (`python benchmarks/evaluation_speed.py`): test rows scored
our way, and one candidate at a time without padding and with all logits, in turns; median and 20 to 80 % quantiles of
the ratio over {ROUNDS} rounds. *Arithmetic*: the same ratio, of the operations in matrix products. It is what there is
to win without better use of the machine: candidates that share a prompt, and logits that nobody reads. Two long
candidates behind a short prompt leave little, a text with one candidate (dolly, drop, squad) next to nothing. Five
times is reached where label words are short (sst2, sst5, wic); elsewhere the ratio is that of the arithmetic or better,
ReCoRD's just below. Rows/s are of a machine that other work shared.

| model | task | rows | tokens | threads | rows/s | one by one / ours | arithmetic |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def section() -> list[str]:
    """Return the lines of the page's section: the latest figures of each model and task."""
    latest: dict[tuple[str, str], dict[str, Row]] = {}
    for row in read_rows(RESULTS, Row):
        latest.setdefault((row.shape, row.method), {})[row.what] = row
    lines = [PREFACE]
    for (shape, task), found in sorted(latest.items()):
        speed, ratio, arithmetic = (
            found[what] for what in ("rows a second", "one by one over ours", "arithmetic, one by one over ours")
        )
        cells = [
            shape,
            task,
            str(speed.batch),
            speed.tokens,
            str(speed.threads),
            f"{speed.value:.0f}",
            f"{ratio.value:.1f}x ({ratio.low:.1f}-{ratio.high:.1f})",
            f"{arithmetic.value:.1f}x",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every causal task, or those asked for."""
    from foretune.cli.display import quiet_libraries
    from foretune.tasks import get_task, list_tasks

    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--data-dir", required=True, help="folder with <task>/{train,validation}.jsonl")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="measure only these")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape in place of the model's")
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help="test rows")
    options = parser.parse_args(arguments)
    quiet_libraries()
    for task in options.only or [name for name in list_tasks() if get_task(name).templates]:
        ledger = Ledger(shape=options.shape or Path(options.model).name, dtype="float32")
        Case.of_checkpoint(options.model, task, options.data_dir, options.rows, shape=options.shape).measure(
            ledger, task
        )
        ledger.append_to(RESULTS)
        print(task, *(f"{row.what} {row.value:.3g}" for row in ledger.rows), sep=", ", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
