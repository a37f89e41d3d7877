"""trainer_state.json, which transformers' Trainer keeps in every checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

from foretune.errors import UsageError
from foretune.ledger.metrics_file import numbers
from foretune.ledger.readers.base import AbstractReader, Log, by_step, id_of

_NAME = "trainer_state.json"
_CLOCKS = ("_runtime", "_per_second", "_preparation_time", "total_flos", "epoch")


class TrainerState(AbstractReader):
    """A folder with the file, or with checkpoints that have it, is one run: the newest file has all of the history."""

    source: ClassVar[str] = "trainer_state"
    what: ClassVar[str] = "trainer_state.json of transformers, in a run's folder or its checkpoints"

    def knows(self, path: Path) -> bool:
        """Whether it is the file, or a folder with some."""
        return path.name == _NAME if path.is_file() else bool(_state_files(path))

    def read(self, path: Path) -> list[Log]:
        """Read the history; the figures of the best checkpoint are `dev.*`."""
        file = path if path.is_file() else _state_files(path)[-1]
        state = _read(file)
        folder = path if path.is_dir() else path.parent
        history = state["log_history"]
        points = by_step(
            (int(entry["step"]), {n: v for n, v in numbers(entry).items() if n != "step" and not n.endswith(_CLOCKS)})
            for entry in history
        )
        steps, total = state.get("global_step"), state.get("max_steps")
        best = [point for point in points if point.step == state.get("best_global_step")]
        dev = {n.removeprefix("eval_"): v for point in best for n, v in point.figures.items() if n.startswith("eval_")}
        runtimes = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
        return [
            Log(
                id=id_of(self.source, folder.absolute()),
                name=folder.absolute().name,
                source=self.source,
                status="finished" if steps and steps == total else "imported",
                points=points,
                metrics={f"dev.{name}": value for name, value in dev.items()},
                steps=steps,
                total_steps=total,
                seconds=float(runtimes[-1]) if runtimes else None,
                output=str(folder.absolute()),
            )
        ]


def _state_files(folder: Path) -> list[Path]:
    """Return the files of a run's folder, the newest last."""
    checkpoints = {}
    for path in folder.glob(f"checkpoint-*/{_NAME}") if folder.is_dir() else ():
        if number := re.fullmatch(r"checkpoint-(\d+)", path.parent.name):
            checkpoints[int(number[1])] = path
    own = folder / _NAME
    return [checkpoints[step] for step in sorted(checkpoints)] + ([own] if own.is_file() else [])


def _read(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text())
        history = state["log_history"]
        if not all(isinstance(entry["step"], int | float) for entry in history):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no state of a Trainer: it needs log_history, a list with steps ({error})."
        ) from None
    return state
