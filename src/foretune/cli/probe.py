"""`foretune probe`."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foretune.cli.options import find_value, read_config_file
from foretune.cli.recipe_options import nested, recipe_options
from foretune.runs.config import ProbeConfig

if TYPE_CHECKING:
    from foretune.runs.settings_probe import Forecast, LrAdvice, SettingsProbe, ZoEpsAdvice

_OF_THE_PROBE = ("trial-steps", "json")
"""Options that `foretune train` has not."""


def run(arguments: Sequence[str]) -> None:
    """Print what was measured, what is recommended and why, what the run will take, and the command that starts it."""
    config = parse(arguments)
    config.check()

    from foretune.cli.display import quiet_libraries
    from foretune.runs.settings_probe import probe_settings

    quiet_libraries()

    def show(found: SettingsProbe) -> None:
        _show(found, config)
        recommended = {"lr": found.lr.value} | ({} if found.zo_eps is None else {"zo-eps": found.zo_eps.value})
        print(f"\n{shlex.join(['foretune', 'train', *train_words(arguments, config, recommended)])}")

    probe_settings(config, lambda text: print(text, flush=True), show)


def parse(arguments: Sequence[str]) -> ProbeConfig:
    """Read the options, those of a file first.

    Raises:
        UsageError: an unknown method, an unknown option, a value of the wrong type.
    """
    path = find_value(arguments, "--config")
    file = nested(read_config_file(path), f"--config {path}") if path is not None else {}
    description = "Measure on a few batches which zo_eps and lr a run should have, and what it will take."
    options, arguments = recipe_options("probe", description, ProbeConfig, arguments, file)
    return options.parse(arguments, file, f"--config {path}")


def train_words(arguments: Sequence[str], config: ProbeConfig, recommended: Mapping[str, float]) -> list[str]:
    """Return the words of `foretune train` for the same run with the recommended settings.

    Args:
        arguments: Of the probe.
        config: What they mean.
        recommended: Values by the name of the option.
    """
    words = _without(arguments, (*_OF_THE_PROBE, *recommended, *(f"method.{name}" for name in recommended)))
    if not any(re.fullmatch(r"--output(=.*)?", word) for word in words):
        words += ["--output", config.output]
    for name, value in recommended.items():
        # what a file says of the method is overridden under the same name
        in_method = config.method.get(name.replace("-", "_")) is not None
        words += [f"--method.{name}" if in_method else f"--{name}", f"{value:g}"]
    return words


def _without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the words without these options, which have one value each."""
    flags = {spelling for name in names for spelling in (f"--{name}", f"--{name.replace('-', '_')}")}
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in flags:
            next(words, None)
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept


def _show(found: SettingsProbe, config: ProbeConfig) -> None:
    print(
        f"{found.task}, {found.method}, {found.tuning} tuning, engine {found.engine}: {found.num_forwards} forward "
        f"passes of {config.batch_size} rows in {found.seconds:.0f} s. The weights are what they were.\n"
    )
    if found.zo_eps is None:
        print(f"zo_eps: none. Method '{found.method}' differentiates along a direction and perturbs no weight.\n")
    else:
        _show_zo_eps(found.zo_eps)
    _show_lr(found.lr)
    if found.zo_eps is not None:
        print(f"Recommended: zo_eps {found.zo_eps.value:g}: {found.zo_eps.reason}.")
    print(f"Recommended: lr {found.lr.value:g}: {found.lr.reason}.\n")
    _show_forecast(found.forecast)


def _show_zo_eps(advice: ZoEpsAdvice) -> None:
    from foretune.cli.tables import print_table

    columns = ("zo_eps", "loss difference", "x rounding", "error of slope", "curvature", "batches agree", "")
    rows = [
        (
            f"{candidate.zo_eps:g}",
            f"{candidate.difference:.2e}",
            _or_dash(candidate.roundings, ".3g"),
            _or_dash(candidate.error, ".1%"),
            _or_dash(candidate.curvature, ".3g"),
            _or_dash(candidate.between_batches, ".2f"),
            "sound" if candidate.is_sound else "",
        )
        for candidate in advice.candidates
    ]
    print_table(f"zo_eps: losses at both sides of the weights; rounding of a loss {advice.rounding:.1e}", columns, rows)


def _show_lr(advice: LrAdvice) -> None:
    from foretune.cli.tables import print_table

    rows = [
        (f"{trial.lr:.2g}", str(trial.steps), _or_dash(trial.change, "+.5f"), _or_dash(trial.spread, ".5f"))
        for trial in advice.trials
    ]
    title = f"lr: loss of held-out rows, {advice.loss:.4f} at first"
    print_table(title, ("lr", "steps", "change of the loss", "spread between batches"), rows)


def _show_forecast(forecast: Forecast) -> None:
    print(
        f"{forecast.steps} steps at {1 / forecast.seconds_per_step:.3g} steps/s, the dev rows "
        f"{forecast.dev_evaluations} times at {forecast.dev_seconds:.3g} s, the test rows before and after: "
        f"{_duration(forecast.seconds)} on this machine, without loading and checkpoints."
    )
    predicted = (
        f"with the longest rows at most {forecast.predicted_memory_bytes / 2**20:,.0f} MiB beside the process, as "
        "foretune estimate predicts"
        if forecast.predicted_memory_bytes is not None
        else f"not predicted: {forecast.unpredicted}"
    )
    measured = f"{forecast.peak_memory_bytes / 2**20:,.0f} MiB"
    print(f"Peak memory: {measured} measured, on a CPU the process included; {predicted}.")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _or_dash(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
