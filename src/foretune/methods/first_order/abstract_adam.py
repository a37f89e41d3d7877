"""What Adam and AdamW share: the averages of gradients and of their squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from foretune.methods.first_order.base import AbstractFirstOrder
from foretune.updates.adam import check_betas


@dataclass(frozen=True, kw_only=True)
class AbstractAdam(AbstractFirstOrder):
    """Settings of Adam, with weight decay in or beside the gradient.

    Attributes:
        betas: Decay of the averages of gradients and of their squares, each in [0, 1).
        eps: Added to the root, positive.
    """

    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"lora": {"lr": 1e-4}, "prefix": {"lr": 1e-2}}
    )

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def check(self) -> None:
        """Refuse settings out of range."""
        super().check()
        check_betas(self.betas, self.eps)

    @property
    def num_state_tensors(self) -> int:
        """The averages of gradients and of their squares."""
        return 2
