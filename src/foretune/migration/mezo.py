"""MeZO: run.py of its large models, for OPT and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from foretune.migration.causal import CAUSAL_FLAGS, AbstractCausalCode, set_first_order, set_method
from foretune.migration.flags import Flag
from foretune.migration.reading import Reading


def zo(reading: Reading) -> None:
    """``--trainer=zo``: MeZO, two forwards a step."""
    set_method(reading, "mezo")


def regular(reading: Reading) -> None:
    """``--trainer=regular``: transformers' own trainer, whose optimizer is AdamW where no other is asked for."""
    name = reading.get("optim", "adamw_torch")
    known = {"adamw_torch": "adamw", "adamw_hf": "adamw", "adamw_torch_fused": "adamw", "sgd": "sgd"}
    set_first_order(reading, reading.choose("optim", name, known))


class MeZO(AbstractCausalCode):
    """MeZO, large models.

    References:
        Malladi et al. 2023, arXiv:2305.17333.
    """

    key: ClassVar[str] = "mezo"
    title: ClassVar[str] = "MeZO"
    flags: ClassVar[Mapping[str, Flag]] = CAUSAL_FLAGS
    trainers: ClassVar[Mapping[str, Callable[[Reading], None]]] = MappingProxyType({"zo": zo, "regular": regular})
