"""`foretune demo`."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretune.cli.options import Options
from foretune.runs.config import DemoConfig, EstimateConfig

if TYPE_CHECKING:
    from foretune.runs.config import TrainConfig
    from foretune.runs.estimate import Estimate

PARENT = Path("runs")
"""Where the demo's folder is made, unless --output says another place."""
PLOT_NAME = "loss.png"
_WIDTH = 100


def run(arguments: Sequence[str]) -> None:
    """Make a folder with model and rows, tune the model by an ordinary run, say what it showed and how to go on."""
    words = ["--output" if word == "-o" else word for word in arguments]
    text = "Teach a small language model to tell good reviews from bad ones, with forward passes only and no network."
    options: DemoConfig = Options("demo", text, DemoConfig).parse(words)
    options.check()

    from foretune.cli.train import parse, tune
    from foretune.runs.demo.making import free_folder, make_demo

    folder = free_folder(PARENT) if options.output is None else Path(options.output)
    settings = make_demo(folder, seed=options.seed)
    config = parse(["--config", str(settings)])
    training = ("train", "--config", str(settings))
    _say(
        "A small language model has read restaurant reviews whose writers are polite, so it calls nearly every visit "
        "great. MeZO now teaches it to tell good from bad by forward passes only: two a step, and no gradient."
    )
    print(f"The same as: {command(*training)}\n", flush=True)
    try:
        results = tune(config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"this run goes on with: {command(*training, '--resume')}") from None

    from foretune.reports.loss_plot import write_loss_plot

    run_folder = Path(config.output)
    plot = run_folder / PLOT_NAME
    write_loss_plot(run_folder, plot)
    print()
    _say(summary(config, results))
    print(f"\nLook at {plot}, or go on:\n")
    replayed = str(folder / "replayed")
    for purpose, words in (
        ("the tuned model's accuracy, once more", ("evaluate", config.output)),
        ("the tuned model, rebuilt from its journal", ("replay", config.output, "-o", replayed, "--device", "cpu")),
        ("the run itself: resumed if it was interrupted, shown again if not", (*training, "--resume")),
    ):
        print(f"# {purpose}\n{command(*words)}")


def summary(config: TrainConfig, results: dict[str, Any]) -> str:
    """Say what a finished demo has shown."""
    from foretune.trainer.trainer import JOURNAL_NAME

    before, after = (f"{100 * results['metrics'][name]['accuracy']:.1f} %" for name in ("zero_shot", "final"))
    seconds = results["steps"] * results["seconds_per_step"]
    mezo, adam = (_memory(config, method) for method in (results["method"], "adam"))
    needs = [f"{num_bytes / 2**20:.1f}" for num_bytes in (mezo.peak, mezo.inference_peak, adam.peak)]
    journal_bytes = (Path(config.output) / JOURNAL_NAME).stat().st_size
    return (
        f"On {results['num_rows']['eval']:,} reviews it had not seen, accuracy went from {before} to {after}, by "
        f"{2 * results['steps']} forward passes in {seconds:.1f} s. A step needs {needs[0]} MiB where inference needs "
        f"{needs[1]} and backpropagation with Adam {needs[2]}, as 'foretune estimate' counts. The journal of the run, "
        f"{journal_bytes / 1000:.0f} kB, is all it takes to make the tuned model again."
    )


def command(*words: str) -> str:
    """Return a command of foretune as it can be pasted into the shell in which this one was started."""
    return shlex.join([*_program(), *words])


def _program() -> list[str]:
    started = Path(sys.argv[0])
    if started.stem != "foretune":  # not by its own script: as a module, or from Python
        return [sys.executable, "-m", "foretune.cli.main"]
    found = shutil.which("foretune")
    return ["foretune"] if found is not None and Path(found).resolve() == started.resolve() else [sys.argv[0]]


def _memory(config: TrainConfig, method: str) -> Estimate:
    """Predict what a step on the demo's rows needs."""
    from foretune.runs.demo.making import MOST_TOKENS
    from foretune.runs.estimate import estimate

    return estimate(
        EstimateConfig(
            model=config.model,
            method={"name": method},
            batch_size=config.batch_size,
            sequence_length=MOST_TOKENS,
            objective="classification",
            device=config.device,
        )
    )


def _say(text: str) -> None:
    """Print a paragraph, no wider than the terminal."""
    print(textwrap.fill(text, min(_WIDTH, shutil.get_terminal_size((_WIDTH, 0)).columns)))
