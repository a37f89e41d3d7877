"""LOZO: run.py of its large models, MeZO's with directions of low rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from foretune.migration.causal import CAUSAL_FLAGS, AbstractCausalCode, set_method
from foretune.migration.flags import Flag, read, table
from foretune.migration.mezo import regular
from foretune.migration.reading import Reading

REFRESH_SOURCE = "LOZO LOZOtrainer.py 706-715 and 804-809; same in its medium models"
SCALE_SOURCE = "arXiv:2410.07698, Algorithm 1, against LOZOtrainer.py"


def note_published_code(reading: Reading) -> None:
    """Say where LOZO's code differs from its paper, and what foretune does."""
    reading.note(
        "differs",
        "LOZO",
        "the update leaves out the paper's 1/rank; foretune's default (matrix_lr_scale = rank) keeps that step, so "
        "learning rates carry over",
        SCALE_SOURCE,
    )
    reading.note(
        "differs",
        "LOZO",
        "when V is redrawn the update follows a U that was never measured; here it follows the measured one",
        REFRESH_SOURCE,
    )


def _lozo(reading: Reading) -> None:
    set_method(reading, "lozo")
    reading.set("method.rank", reading.get("rank_r", 2))
    reading.set("method.interval", reading.get("step_interval", 50))
    note_published_code(reading)


class LOZO(AbstractCausalCode):
    """LOZO, large models.

    References:
        Chen et al. 2024, arXiv:2410.07698.
    """

    key: ClassVar[str] = "lozo"
    title: ClassVar[str] = "LOZO"
    flags: ClassVar[Mapping[str, Flag]] = table(
        *CAUSAL_FLAGS.values(),
        read("rank_r", "--method.rank", int, reader="a zeroth-order trainer"),
        read("step_interval", "--method.interval", int, reader="a zeroth-order trainer"),
    )
    trainers: ClassVar[Mapping[str, Callable[[Reading], None]]] = MappingProxyType(
        {"zo": _lozo, "LOZO": _lozo, "regular": regular}
    )
