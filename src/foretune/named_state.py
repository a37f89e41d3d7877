"""The state of an optimizer of torch by the names of its tensors, which outlive the order of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def named_state(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Any]:
    """Return settings and state tensors, in the form of `foretune.Optimizer.state_dict`."""
    saved = optimizer.state_dict()
    return {
        "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in saved["param_groups"]],
        "state": {
            name: {"tensors": saved["state"].get(index, {})} for index, name in enumerate(_ordered(optimizer, names))
        },
    }


def load_named_state(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], state: Mapping[str, Any]
) -> None:
    """Restore what `named_state` returned; the optimizer's `param_groups` are new dicts afterwards."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(
        {
            "param_groups": [{**group, **saved} for group, saved in zip(groups, state["param_groups"], strict=True)],
            "state": {index: state["state"][name]["tensors"] for index, name in enumerate(_ordered(optimizer, names))},
        }
    )


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of state that are kept between steps, counters included."""
    states = optimizer.state.values()
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))


def _ordered(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> list[str]:
    """Return the names in the order in which torch numbers parameters."""
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
