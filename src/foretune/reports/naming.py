"""How a report calls models, tasks, methods and settings."""

from __future__ import annotations

import re
from typing import Any

from foretune.ledger import Run
from foretune.ledger.run import INCIDENTAL, SEEDS, flatten

UNKNOWN = "unknown"
_SUFFIX = re.compile(r"(-hf|-v\d+(\.\d+)?)$")


def model_name(model: str | None) -> str:
    """Return the last part of a path or hub id, in lower case: `meta-llama/Llama-2-7b-hf` is llama-2-7b."""
    if not model:
        return UNKNOWN
    return _SUFFIX.sub("", model.rstrip("/\\").replace("\\", "/").rpartition("/")[2].casefold())


def task_name(run: Run) -> str:
    """Return the task, with the few-shot setting where there is one."""
    shots = run.config.get("shots")
    return f"{run.task or UNKNOWN}{f' (k={shots})' if shots else ''}"


def settings_of(run: Run) -> dict[str, Any]:
    """Return the settings of a run by dotted names; those of the method without prefix."""
    flat = dict(flatten({name: value for name, value in run.config.items() if name not in {*INCIDENTAL, *SEEDS}}))
    return {name.removeprefix("method."): value for name, value in flat.items()}


def figure_name(name: str) -> str:
    """Return a figure's name in words: `rouge_l` is ROUGE-L."""
    return {"f1": "F1", "rouge_l": "ROUGE-L"}.get(name, name.replace("_", " "))


def number(value: float, digits: int = 4) -> str:
    """Write a number briefly: 1e-6, 3.5e-5, 0.05, 16."""
    if value != 0 and not 1e-2 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{digits}g}"


def setting(value: Any) -> str:
    """Write any value of a setting."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return number(value)


def duration(seconds: float) -> str:
    """Write seconds in the unit that suits them."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def memory(num_bytes: float) -> str:
    """Write bytes in MiB, or in GiB from two of them on."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2 * 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def passes(count: float) -> str:
    """Write a number of passes with thousands apart."""
    return f"{count:,.0f}".replace(",", "\u202f")
