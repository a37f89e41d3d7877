import math

import numpy as np
import pytest

from foretune.errors import UsageError
from foretune.sweeps.parameters import Range, Values, read_parameter


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"value": 3}, Values((3,))),
        ({"values": ["a", "b"], "distribution": "categorical"}, Values(("a", "b"))),
        ("sst2", Values(("sst2",))),
        ([1, 2], Values((1, 2))),
        ({"values": ["1e-6", "5.e-7", "e-7"]}, Values((1e-6, 5e-7, "e-7"))),  # YAML reads 1e-6 as text
        ({"min": 1, "max": 4}, Range(low=1, high=4, integer=True)),
        ({"min": 0, "max": 0.5}, Range(low=0, high=0.5)),
        ({"min": "1e-6", "max": "1e-3", "distribution": "log_uniform_values"}, Range(low=1e-6, high=1e-3, log=True)),
        ({"min": 0, "max": 1, "distribution": "q_uniform", "q": 0.25}, Range(low=0, high=1, step=0.25)),
    ],
)
def test_the_forms_of_wandb_and_short_ones_are_read(given, expected):
    assert read_parameter("lr", given, "f.yaml: parameters") == expected


def test_log_uniform_is_given_in_exponents_of_e():
    parameter = read_parameter("lr", {"min": -2, "max": 1, "distribution": "log_uniform"}, "f")
    assert (parameter.low, parameter.high) == (math.exp(-2), math.exp(1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"values": []}, "f: p.lr.values is empty: give at least one."),
        ({"values": 3}, "f: p.lr.values must be a list, got 3."),
        ({"values": [1, 2, 1]}, "f: p.lr.values has 1 twice."),
        (
            {"value": 1, "values": [1]},
            "f: p.lr must have one of value, values, or min and max; found value and values.",
        ),
        ({"vals": [1]}, "f: p.lr has no 'vals'. Did you mean: values, value?"),
        ({"min": 1}, "f: p.lr has min and no max."),
        ({"max": 1}, "f: p.lr has max and no min."),
        ({"min": 2, "max": 1}, "f: p.lr: the range from 2 to 1 is empty: min must be below max."),
        ({"min": "a", "max": 1}, "f: p.lr.min must be a number, got 'a'."),
        ({"min": 0, "max": 1, "distribution": "normal"}, "f: p.lr.distribution 'normal' is not known."),
        ({"min": 0, "max": 1, "distribution": "log_uniform_values"}, "f: p.lr.min must be positive"),
        ({"min": 0, "max": 1, "q": 0.1}, "f: p.lr.q has no effect with int_uniform"),
        ({"parameters": {}}, "f: p.lr: nested parameters are not read; write lr.NAME instead."),
    ],
)
def test_what_cannot_be_read_is_named(given, message):
    with pytest.raises(UsageError) as error:
        read_parameter("lr", given, "f: p")
    assert str(error.value).startswith(message)


def test_draws_are_within_the_range_and_spread_as_it_says():
    random = np.random.RandomState(0)
    logarithmic = Range(low=1e-6, high=1e-2, log=True)
    values = [logarithmic.draw(random) for _ in range(2000)]
    assert min(values) >= 1e-6
    assert max(values) <= 1e-2
    # uniform exponents from -6 to -2: mean -4, standard error 4 / sqrt(12 * 2000) = 0.026; five of these
    assert abs(np.mean(np.log10(values)) + 4) < 0.13
    assert {Range(low=1, high=3, integer=True).draw(random) for _ in range(100)} == {1, 2, 3}
    assert {Range(low=0, high=1, step=0.5).draw(random) for _ in range(100)} == {0.0, 0.5, 1.0}
