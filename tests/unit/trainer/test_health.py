"""What the watch says of made-up records: each cause at its step, and nothing of runs that are merely noisy."""

from __future__ import annotations

import math
import random

import pytest
import torch

from foretune.errors import DivergedError, NonFiniteLossError
from foretune.journal import EvaluationRecord, StepRecord
from foretune.parameters import collect_trainables
from foretune.trainer.health import (
    FLOAT32_RESOLUTION,
    Cause,
    Growth,
    HealthWatch,
    is_sound,
    signal_to_rounding,
)
from unit.trainer.runs import TinyLM


def step(number, loss, slope=1.0, *, lr=1e-6, zo_eps=1e-3):
    accepted = math.isfinite(loss)
    return StepRecord(number, (slope if accepted else 0.0,), loss, lr, zo_eps, accepted)


def steps(losses, **settings):
    return [step(number, loss, **settings) for number, loss in enumerate(losses)]


def noise(count, level=0.65, spread=0.09, seed=0):
    generator = random.Random(seed)
    return [generator.gauss(level, spread) for _ in range(count)]


def watch(records, total_steps=None, **settings):
    """Return all findings of the records."""
    count = sum(isinstance(record, StepRecord) for record in records)
    guard = HealthWatch(total_steps or count, lambda record: record.scalars, **settings)
    return [finding for record in records for finding in guard.add(record)]


def first_divergence(records):
    return next((finding for finding in watch(records, total_steps=10**6) if finding.cause.diverges), None)


def causes(*args, **settings):
    return [(finding.cause, finding.step) for finding in watch(*args, **settings)]


class TestExplodingLoss:
    def test_a_loss_that_leaves_its_first_window_behind(self):
        records = steps([*noise(100), *(3 + loss for loss in noise(60, seed=1))], lr=1e-3)
        (finding,) = watch(records, total_steps=10_000)
        assert (finding.cause, finding.step) == (Cause.EXPLODING_LOSS, 125)  # when half of the last 50 are high
        assert str(finding).startswith("exploding_loss after 125 steps: the median of the last 50 losses is ")
        assert "that of the first 5 was 0.5888" in finding.numbers
        assert finding.remedy == "Lower lr (0.001)"

    def test_a_loss_that_explodes_before_there_is_a_window(self):
        losses = [0.48, 0.96, 0.5, 0.84, 0.75, *(20.0 * number for number in range(1, 80))]
        assert causes(steps(losses), total_steps=10_000) == [(Cause.EXPLODING_LOSS, 55)]

    def test_a_loss_that_is_infinite_in_half_of_the_steps(self):
        losses = noise(100) + [math.inf, *noise(1)] * 30
        assert causes(steps(losses), total_steps=10_000) == [(Cause.EXPLODING_LOSS, 149)]

    @pytest.mark.parametrize(
        "later",
        [
            noise(100, level=1.1),  # above all first losses, but not twice as large
            [4.0, *[0.65] * 3] * 25,  # a spike in every fourth step
            noise(100, level=0.3),
        ],
    )
    def test_a_loss_that_does_not(self, later):
        records = steps([*noise(60), *later])
        assert first_divergence(records) is None

    def test_only_the_first_time(self):
        records = steps([*noise(100), *noise(300, level=9.0)])
        assert [finding.cause for finding in watch(records)] == [Cause.EXPLODING_LOSS]
        assert first_divergence(records).step == 125

    def test_rewards_that_fall_to_nothing_are_not_called_so(self):
        """A negative loss cannot exceed its beginning by its own size without changing its sign."""
        assert first_divergence(steps([*noise(60, level=-0.8), *noise(100, level=-0.1, spread=0.01)])) is None


def test_ten_losses_in_a_row_that_are_not_finite():
    losses = [*noise(20), *[math.nan] * 9, 0.6, *[math.inf] * 12]
    (finding,) = watch(steps(losses, lr=0.5), total_steps=1000)
    assert (finding.cause, finding.step) == (Cause.NON_FINITE_LOSS, 40)
    assert finding.numbers == "the loss is inf, and was not finite in 10 steps in a row"
    assert issubclass(NonFiniteLossError, DivergedError)


class TestSignal:
    def test_no_difference_at_all(self):
        (finding,) = watch(steps(noise(120), slope=0.0), total_steps=1000)
        assert (finding.cause, finding.step) == (Cause.ZERO_GRADIENT, 50)
        assert "Raise zo_eps (0.001), or see whether the loss depends on what is tuned" in finding.remedy

    def test_steps_without_a_finite_loss_do_not_count(self):
        losses = [*noise(30), math.nan, math.nan, *noise(30)]
        assert causes(steps(losses, slope=0.0), total_steps=1000) == [(Cause.ZERO_GRADIENT, 52)]

    def test_one_difference_is_enough_and_a_loss_of_zero_is_learned(self):
        once = [step(number, loss, slope=float(number == 3)) for number, loss in enumerate(noise(50))]
        assert watch(once, total_steps=1000) == []
        assert watch(steps([0.0] * 100, slope=0.0), total_steps=1000) == []

    @pytest.mark.parametrize(("roundings", "found"), [(15.9, True), (16.1, False)])
    def test_a_difference_of_a_few_roundings(self, roundings, found):
        slope = roundings * 0.5 * FLOAT32_RESOLUTION / (2 * 1e-3)
        findings = watch(steps([0.5] * 50, slope=slope), total_steps=1000)
        assert [finding.cause for finding in findings] == [Cause.DEAD_SIGNAL] * found
        if found:
            assert "the loss difference of 50 steps is 16 roundings of the loss" in findings[0].numbers
            assert findings[0].remedy == "Raise zo_eps (0.001)"

    def test_in_float64_there_is_less_rounding(self):
        slope = 0.5 * FLOAT32_RESOLUTION / (2 * 1e-3)
        assert watch(steps([0.5] * 50, slope=slope), total_steps=1000, resolution=2.0**-53) == []

    def test_slopes_by_differentiation_have_no_difference(self):
        assert watch(steps([0.5] * 50, slope=1e-12, zo_eps=0.0), total_steps=1000) == []

    def test_units(self):
        assert signal_to_rounding([2.0, 4.0], [3 * FLOAT32_RESOLUTION, -3 * FLOAT32_RESOLUTION]) == 1.0
        assert signal_to_rounding([0.0], [1.0]) == 0.0


class TestTrend:
    @staticmethod
    def with_dev(losses, dev, every=100):
        records = []
        for record in steps(losses):
            records.append(record)
            if (record.step + 1) % every == 0:
                records.append(EvaluationRecord(record.step + 1, {"eval_loss": dev(record.step + 1)}))
        return records

    def test_dev_losses_that_do_not_move(self):
        records = self.with_dev(noise(600), lambda count: 0.66 - 1e-7 * count)
        (finding,) = watch(records)
        assert (finding.cause, finding.step) == (Cause.FLAT_LOSS, 300)
        assert "the mean loss of the last 100 steps is 0.6" in finding.numbers
        assert finding.remedy == "Raise lr (1e-06)"

    def test_dev_losses_that_move_are_silence(self):
        assert watch(self.with_dev(noise(600), lambda count: 0.66 - 1e-5 * count)) == []

    def test_a_training_loss_that_falls_is_silence(self):
        losses = [loss - 0.2 * number / 600 for number, loss in enumerate(noise(600))]
        assert watch(self.with_dev(losses, lambda count: 0.66)) == []

    def test_without_dev_rows_enough_steps_must_show_it(self):
        """A decline of 2 % is 1.5 standard errors after 600 steps; few runs that learn that much are called flat."""
        assert causes(steps(noise(6000))) == [(Cause.FLAT_LOSS, 4500)]
        slope = 0.02 * 0.65 / 400  # between the means of the first and the last third
        runs = ([loss - slope * number for number, loss in enumerate(noise(600, seed=seed))] for seed in range(100))
        assert sum(bool(watch(steps(losses))) for losses in runs) <= 6

    def test_a_loss_that_is_too_young_or_rises(self):
        assert watch(steps([0.65] * 190)) == []
        assert causes(steps([0.65] * 300)) == [(Cause.FLAT_LOSS, 225)]
        losses = [loss + 0.1 * number / 600 for number, loss in enumerate(noise(600))]
        (finding,) = watch(steps(losses))
        assert (finding.cause, finding.step, finding.remedy) == (Cause.RISING_LOSS, 600, "Lower lr (1e-06)")

    def test_what_an_earlier_finding_explains_is_not_said(self):
        losses = [*noise(100), *noise(500, level=8.0)]
        assert [finding.cause for finding in watch(steps(losses))] == [Cause.EXPLODING_LOSS]
        assert [finding.cause for finding in watch(steps([0.5] * 600, slope=0.0))] == [Cause.ZERO_GRADIENT]
        found = watch(steps([*[0.5] * 100, *noise(200, level=9.0)], slope=1e-6))
        assert [finding.cause for finding in found] == [Cause.DEAD_SIGNAL, Cause.EXPLODING_LOSS]


def _families(generator):
    """Losses of a run that stays as it is: small batches, single rows of two kinds, heavy tails, accuracies."""
    return {
        "normal": lambda: generator.gauss(0.65, 0.09),
        "exponential": lambda: generator.expovariate(1.0),
        "log-normal": lambda: generator.lognormvariate(0.0, 1.5),
        "two kinds of rows": lambda: generator.uniform(4.9, 5.1) if generator.random() < 0.3 else 0.01,
        "accuracy of two rows": lambda: -(generator.random() < 0.6) / 2 - (generator.random() < 0.6) / 2,
    }


@pytest.mark.parametrize("family", list(_families(random.Random())))
def test_losses_that_stay_as_they_are_diverge_in_no_run_of_sixty(family):
    for seed in range(60):
        draw = _families(random.Random(seed))[family]
        assert first_divergence(steps([draw() for _ in range(300)])) is None, seed


class TestSoundness:
    def test_before_and_after_the_trouble(self):
        records = steps([*noise(100), *noise(60, level=1.0)])
        assert is_sound(records[:100])
        assert not is_sound(records[:150])
        assert not is_sound([*records[:100], step(100, math.nan)])

    def test_a_run_that_has_just_begun_and_one_that_learns(self):
        assert is_sound([])
        assert is_sound(steps(noise(5)))
        assert is_sound(steps([loss - 0.3 * number / 100 for number, loss in enumerate(noise(100))]))

    def test_losses_that_do_not_change_are_sound_as_a_rule(self):
        """By chance one in six is not, and a rollback goes back further."""
        sound = [is_sound(steps(noise(60, seed=seed))) for seed in range(200)]
        assert 0.75 < sum(sound) / 200 < 0.92


class TestGrowth:
    def test_against_the_beginning(self):
        model = TinyLM()
        growth = Growth(collect_trainables(model))
        assert growth() == 1.0
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(7)
        assert growth() == pytest.approx(7)

    def test_from_nothing_there_is_no_growth(self):
        model = TinyLM()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        growth = Growth(collect_trainables(model))
        with torch.no_grad():
            model.mix.weight.fill_(1.0)
        assert growth() == 1.0

    def test_a_hundredfold_is_an_explosion(self):
        guard = HealthWatch(100)
        for record in steps(noise(3), lr=0.5):
            guard.add(record)
        assert guard.add_growth(99.9) == []
        (finding,) = guard.add_growth(101.0)
        assert str(finding) == (
            "exploding_weights after 3 steps: the norm of the trained weights is 101 times that of the beginning. "
            "Lower lr (0.5)"
        )
        assert guard.add_growth(1e9) == []
