"""What a person sees: progress of a run, tables, and silence from the libraries underneath."""

from __future__ import annotations

import math
from collections import deque
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from foretune.cli.tables import print_table
from foretune.trainer.health import signal_to_rounding


def quiet_libraries() -> None:
    """Switch off the progress bars and chatter of transformers and datasets."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


class Progress:
    """A live bar on a terminal, plain lines elsewhere; the callback feeds it."""

    def __init__(self) -> None:
        self._console = Console()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self.callback = _ProgressCallback(self._bar, self._console)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _ProgressCallback(TrainerCallback):
    def __init__(self, bar: Bar, console: Console) -> None:
        self._bar = bar
        self._console = console
        self._task: Any = None
        self._losses: deque[float] = deque(maxlen=50)
        self._differences: deque[float] = deque(maxlen=50)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._task is None:
            self._task = self._bar.add_task("steps", total=state.max_steps, figures="")
        self._bar.update(self._task, completed=state.global_step)  # also where a run goes back

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        optimizer = getattr(optimizer, "optimizer", optimizer)
        record = getattr(optimizer, "last_record", None)
        if record is not None:  # first-order optimizers have none: the log gives their losses
            self._losses.append(record.loss)
            self._differences += [2 * record.zo_eps * slope for slope in optimizer.projected_grads(record)]
        self._bar.update(self._task, completed=state.global_step, figures=self._figures())

    def _figures(self) -> str:
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        speed = self._bar.tasks[self._task].speed or 0.0 if self._task is not None else 0.0
        if not any(self._differences):  # a method without finite differences, or a loss that does not move
            return f"loss {loss:.4f}  {speed:.1f} steps/s"
        signal = signal_to_rounding(self._losses, self._differences)
        return f"loss {loss:.4f}  signal/rounding {signal:.0f}  {speed:.1f} steps/s"

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "train_runtime" in logs:
            return
        if "grad_norm" in logs:
            self._losses.append(logs["loss"])
        first = ("loss", "projected_grad_rms", "grad_norm", "learning_rate", "eval_loss")
        shown = [*first, *(name for name in logs if name.startswith("eval_") and name not in first)]
        line = "  ".join(f"{name} {logs[name]:.5g}" for name in shown if name in logs)
        if not self._console.is_terminal or "eval_loss" in logs:
            self._console.print(f"step {state.global_step}  {line}", highlight=False)


def print_results(results: dict[str, Any], output: str | None) -> None:
    """Print the closing table of a training run."""
    metrics, chosen = results["metrics"], results["final_model"]
    if chosen is not None:
        figures = {
            "zero-shot": metrics["zero_shot"],
            f"tuned (step {chosen['step']}, {chosen['selected_by']})": metrics["final"],
        }
        title = f"{results['task']}, {results['method']}, {results['num_rows']['eval']} test rows"
        _print_figures(title, metrics["majority"], figures)
    for back in results.get("rollbacks", ()):
        cause, step, factor = back["cause"], back["step"], back["lr_factor"]
        print(f"{cause} after {back['detected_at']} steps: went back to step {step} with {factor:g} times the lr")
    per_step = results["seconds_per_step"]
    speed = f"{per_step:.3f} s per step, " if per_step else ""
    print(f"{speed}peak memory {results['peak_memory_bytes'] / 2**20:.0f} MiB, engine {results['engine']}, in {output}")
    if "pushed_to" in results:
        print(f"Pushed to {results['pushed_to']}")


def print_evaluation(results: dict[str, Any]) -> None:
    """Print the result of an evaluation."""
    metrics, sets = results["metrics"], results.get("sets", ())
    figures = {results["setting"]: metrics["model"]}
    if sets:
        figures[f"standard deviation of {len(sets)} sets"] = metrics["spread"]
    title = f"{results['task']}, {results['num_rows']} test rows, {results['model']}"
    _print_figures(title, metrics["majority"], figures)
    cut = f", {results['num_cut']} rows were too long and cut" if results["num_cut"] else ""
    print(f"{results['examples_per_second']:.1f} examples/s{cut}")


def _print_figures(title: str, majority: dict[str, float], figures: dict[str, dict[str, float]]) -> None:
    """Print a line for the majority class, where there is one, and one for each model."""
    from foretune.evaluation import METRICS

    names = list(dict.fromkeys(name for metrics in figures.values() for name in metrics))

    def cell(metrics: dict[str, float], name: str) -> str:
        if name not in metrics:
            return ""
        return f"{100 * metrics[name]:.1f}" if name in METRICS else f"{metrics[name]:.4f}"

    lines = {**({"majority class": majority} if majority else {}), **figures}
    rows = [(label, *(cell(metrics, name) for name in names)) for label, metrics in lines.items()]
    print_table(title, ["model", *(f"{name} %" if name in METRICS else name for name in names)], rows)
