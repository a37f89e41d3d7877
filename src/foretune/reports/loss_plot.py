"""The losses of one run, step by step, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from foretune.journal import Journal
from foretune.reports.colours import GREY, LIGHT, look
from foretune.reports.figures import RESOLUTION, STYLE
from foretune.trainer.trainer import JOURNAL_NAME

_NUM_AVERAGED = 20
"""Steps of the moving average: losses of single batches differ more than steps change them."""


def write_loss_plot(run: Path, path: Path) -> None:
    """Draw training and dev loss of a run; equal runs give equal bytes.

    Args:
        run: Folder of a run with a journal.
        path: A .png file.
    Raises:
        JournalError: the folder has no journal, or a damaged one.
    """
    journal = Journal.read(run / JOURNAL_NAME)
    with matplotlib.rc_context(STYLE):
        loss_figure(journal).savefig(path, dpi=RESOLUTION, bbox_inches="tight", metadata={"Software": None})


def loss_figure(journal: Journal) -> Figure:
    """Return the losses of a journal by step: of each batch, their moving average, and of the dev rows."""
    steps = [record for record in journal.steps if record.accepted]
    evaluations = [record for record in journal.evaluations if "eval_loss" in record.metrics]
    done, losses = [record.step + 1 for record in steps], [record.loss for record in steps]
    method = journal.header["method"]["name"]
    colour = LIGHT[look(method).hue]
    figure = Figure(figsize=(5.2, 3.2))
    axes = figure.add_subplot()
    axes.plot(done, losses, ".", color=colour, alpha=0.3, ms=4, mew=0, label="batch of a step")
    axes.plot(done, moving_average(losses, _NUM_AVERAGED), color=colour, lw=1.6, label=f"mean of {_NUM_AVERAGED} steps")
    axes.plot(
        [record.step for record in evaluations],
        [record.metrics["eval_loss"] for record in evaluations],
        "D",
        color=LIGHT[GREY],
        ms=5,
        label="dev rows",
    )
    axes.set(xlabel="optimizer steps", ylabel="loss", ylim=(0, None))
    axes.set_title(method, loc="left", fontsize=9, fontweight="bold")
    axes.legend(frameon=False)
    return figure


def moving_average(values: Sequence[float], count: int) -> list[float]:
    """Return, for each value, the mean of it and of those before it, `count` in all where there are so many."""
    sums = list(accumulate(values, initial=0.0))
    return [(sums[end] - sums[max(0, end - count)]) / min(end, count) for end in range(1, len(sums))]
