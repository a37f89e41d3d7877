"""HiZOO: MeZO's run.py with a running estimate of the Hessian's diagonal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from foretune.migration.causal import CAUSAL_FLAGS, AbstractCausalCode, set_method
from foretune.migration.flags import Flag, read, table
from foretune.migration.mezo import regular
from foretune.migration.reading import Reading

_OFFERED = ("0", "1e-2", "1e-4", "1e-6", "1e-8", "1e-10", "1e-12")


def _hizoo(reading: Reading) -> None:
    kind = reading.get("hessian_smooth_type", "constant0")
    found = re.fullmatch(r"constant([\d.]+(?:e-?\d+)?)", kind)
    if found is None:
        raise reading.refuse(
            "hessian_smooth_type",
            f"foretune's smoothing is constant; use one of {', '.join(f'constant{value}' for value in _OFFERED)}.",
        )
    if (smooth := float(found[1])) == 0:
        set_method(reading, "mezo")
        reading.note(
            "differs",
            "hessian_smooth_type" if reading.has("hessian_smooth_type") else "--hessian_smooth_type",
            "constant0, the default, leaves the Hessian at 1: the run was MeZO's, which is written; for HiZOO give "
            "constant1e-8 as its README does, or --method hizoo",
            "HiZOO, large models, default of the flag",
        )
    else:
        set_method(reading, "hizoo")
        reading.set("method.smooth", smooth)
        reading.set("method.precond", "new")
        _note_published_code(reading)
    _read_schedule(reading)


def _note_published_code(reading: Reading) -> None:
    if reading.options["dtype"] != "float32":
        reading.note(
            "differs",
            "hessian_smooth_type",
            "the Hessian has the weights' dtype there, in which 1 - 1e-8 is 1: in half precision it may never have "
            "left 1, and the run was MeZO's (--method mezo); here it is float32",
            "HiZOO, large models",
        )


def _read_schedule(reading: Reading) -> None:
    kind = reading.get("zo_lr_scheduler_type", "constant")
    for name in ("warmup_step", "decay_step"):
        if reading.get(name) and kind == "constant":
            reading.note("ignored there", name, "a constant learning rate has none")
    if kind != "constant":
        reading.note(
            "no counterpart",
            "zo_lr_scheduler_type",
            "it moves once an epoch there, as if epochs were steps, and so hardly at all; constant is written",
            "HiZOO trainer",
        )


class HiZOO(AbstractCausalCode):
    """HiZOO, large models.

    References:
        Zhao et al. 2024, arXiv:2402.15173.
    """

    key: ClassVar[str] = "hizoo"
    title: ClassVar[str] = "HiZOO"
    flags: ClassVar[Mapping[str, Flag]] = table(
        *CAUSAL_FLAGS.values(),
        read("hessian_smooth_type", "--method.smooth", reader="--trainer=zo"),
        read("zo_lr_scheduler_type", "--lr-scheduler constant", reader="--trainer=zo"),
        read("warmup_step", "none", int, reader="--trainer=zo"),
        read("decay_step", "none", int, reader="--trainer=zo"),
    )
    trainers: ClassVar[Mapping[str, Callable[[Reading], None]]] = MappingProxyType({"zo": _hizoo, "regular": regular})
