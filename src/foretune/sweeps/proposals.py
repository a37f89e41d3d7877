"""Settings that are proposed from what came out so far, when a worker takes a trial (method bayes)."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from foretune.sweeps.file import Grid
from foretune.sweeps.parameters import Parameter, Range, Values
from foretune.sweeps.plan import Parse, resolve
from foretune.sweeps.settings import StudySettings
from foretune.sweeps.study import Claim


def propose(claim: Claim, settings: StudySettings, parse: Parse) -> None:
    """Give a trial its options.

    Raises:
        UsageError: what was proposed does not fit together.
    """
    assert settings.parameters is not None
    options: dict[str, Any] = {}
    for name, parameter in settings.parameters.items():
        if isinstance(parameter, Values) and len(parameter.values) == 1:
            options[name] = parameter.values[0]
        else:
            options[name] = _suggest(claim, name, _distribution(parameter))
    grid = Grid(
        place="proposed settings",
        parameters=settings.parameters,
        suite=claim.item.suite,
        forward_passes=settings.forward_passes,
    )
    planned = resolve(options, grid, parse)
    # of two equal proposals the second waits for the folder and finds there what the first has made
    claim.propose(planned.options, settings=planned.settings, folder=planned.folder)


def _suggest(claim: Claim, name: str, distribution: BaseDistribution) -> Any:
    trial = claim.trial
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log, step=distribution.step)


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Return what Optuna draws from."""
    if isinstance(parameter, Range):
        if parameter.integer:
            return IntDistribution(int(parameter.low), int(parameter.high))
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return CategoricalDistribution(parameter.values)
