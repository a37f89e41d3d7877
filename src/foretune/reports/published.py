"""Published numbers, to stand beside measured ones; they are marked as such wherever they appear."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from foretune.reports.choices import Cell

EVIDENCE = {
    "P": "read in the paper",
    "S": "read in another paper's table or a note",
    "F": "read off a figure",
}
UNITS = {"score": "%", "memory_gb": "GB", "s_per_step": "s a step", "ms_per_step": "ms a step"}
_SHOTS = re.compile(r"\bk ?= ?(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A number that somebody published.

    Attributes:
        source: Paper or project, by the name of its method.
        arxiv: Number there; None where it has none or it is not known.
        where: Table, figure or text.
        evidence: A key of `EVIDENCE`.
        model, task: As our reports spell them; the task is "any" where the source names none.
        setting: Rows, hardware or steps, as far as they are known.
        label: The method's name in the source.
        method: Our name of it; None where it is none of ours.
        tuning: Scheme; "any" where the source names none, "none" where nothing is tuned.
        metric: A key of `UNITS`.
        value: In that unit; of a score 100 x accuracy, or 100 x F1 of squad and drop.
        deviation: Over five seeds; None where it was not published.
        note: What to know before comparing.
    """

    source: str
    arxiv: str | None
    where: str
    evidence: str
    model: str
    task: str
    setting: str
    label: str
    method: str | None
    tuning: str
    metric: str
    value: float
    deviation: float | None
    note: str

    @property
    def shots(self) -> int | None:
        """Rows of each class in a few-shot setting."""
        found = _SHOTS.search(self.setting)
        return int(found[1]) if found else None

    @property
    def text(self) -> str:
        """The number, with its spread, and as many decimals as were published (of scores at least one)."""
        decimals = max(len(f"{self.value:g}".partition(".")[2]), 1 if self.metric == "score" else 0)
        spread = "" if self.deviation is None else f" ± {self.deviation:.{decimals}f}"
        return f"{self.value:.{decimals}f}{spread}"

    @property
    def origin(self) -> str:
        """Where it is from, in a line."""
        parts = [self.source, *([f"arXiv {self.arxiv}"] if self.arxiv else []), self.where, EVIDENCE[self.evidence]]
        return ", ".join([*parts, *([self.setting] if self.setting else []), *([self.note] if self.note else [])])


@cache
def published() -> tuple[Published, ...]:
    """Return every number, in the order of papers and tables."""
    text = files("foretune.reports").joinpath("published.yaml").read_text(encoding="utf-8")
    return tuple(_read(yaml.safe_load(text)))


def _read(content: dict[str, Any]) -> Iterator[Published]:
    for table in content["tables"]:
        for label, tuning, *values in table["rows"]:
            for task, value in zip(table["columns"], values, strict=True):
                if value is not None:
                    mean, deviation = value if isinstance(value, list) else (value, None)
                    yield Published(
                        source=table["source"],
                        arxiv=content["sources"][table["source"]].get("arxiv"),
                        where=table["where"],
                        evidence=table["evidence"],
                        model=table["model"],
                        task=task,
                        setting=table.get("setting", ""),
                        label=label,
                        method=content["methods"].get(label),
                        tuning=tuning,
                        metric=table["metric"],
                        value=mean,
                        deviation=deviation,
                        note=table.get("note", ""),
                    )


def beside(cell: Cell) -> list[Published]:
    """Return the scores of a cell's method, task and tuning scheme: of its model alone, where there are any.

    The paper that proposed the method comes first, then evidence from the paper itself, then the rest.
    """
    task, _, shots = cell.task.partition(" (k=")
    wanted = int(shots.rstrip(")")) if shots else None
    found = [
        number
        for number in published()
        if (number.metric, number.method, number.task, number.tuning, number.shots)
        == ("score", cell.method, task, cell.tuning, wanted)
    ]
    same = [number for number in found if number.model == cell.model]
    return sorted(same or found, key=lambda number: (number.label != number.source, "PSF".index(number.evidence)))


def of_tasks(tasks: Sequence[str]) -> list[Published]:
    """Return all scores on these tasks (few-shot settings left out of the name), by task and model."""
    names = {task.partition(" (")[0] for task in tasks}
    found = [number for number in published() if number.metric == "score" and number.task in names]
    return sorted(found, key=lambda number: (number.task, number.model, number.tuning, -number.value))
