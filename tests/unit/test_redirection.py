"""Forwards that are led elsewhere for a while."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from foretune.redirection import redirected


def test_a_call_runs_the_other_function_and_hooks_as_ever() -> None:
    linear, seen = nn.Linear(2, 2), []
    linear.register_forward_hook(lambda module, args, output: seen.append(output))
    with redirected({linear: lambda x, scale=1: scale * x}):
        assert linear(3) == 3
        assert linear(3, scale=2) == 6
    assert seen == [3, 6]
    assert "forward" not in vars(linear)


def test_one_inside_another_ends_before_it() -> None:
    linear = nn.Linear(2, 2)
    with redirected({linear: lambda x: "outer"}):
        outer = linear.forward
        with redirected({linear: lambda x: ("inner", outer(x))}):
            assert linear(1) == ("inner", "outer")
        assert linear(1) == "outer"
    assert "forward" not in vars(linear)


def test_a_forward_of_the_modules_own_is_back_after_an_error() -> None:
    linear = nn.Linear(2, 2)
    own = linear.forward = lambda x: "own"
    with pytest.raises(ZeroDivisionError), redirected({linear: lambda x: x / 0, nn.Linear(1, 1): print}):
        linear(1)
    assert linear.forward is own


def test_signatures_and_copies_are_those_of_the_module() -> None:
    linear = nn.Linear(2, 2)
    signature = inspect.signature(linear.forward)
    with redirected({linear: lambda *args: None}):
        assert inspect.signature(linear.forward) == signature
        twin = copy.deepcopy(linear)
    with torch.no_grad():
        twin.weight.zero_()
        twin.bias.fill_(1.0)
        assert twin(torch.ones(1, 2)).tolist() == [[1.0, 1.0]]
