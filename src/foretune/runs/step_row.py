"""What is said about the time of a step: on which workload, by whom, and the figure itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from foretune.errors import UsageError
from foretune.runs.config import ProbedObjective
from foretune.runs.provenance import Provenance

FLOOR = "floor"
"""Two forwards of the same objective without a perturbation."""
PUBLISHED = "published"
"""MeZO as it is usually published (`foretune.runs.published_way`)."""

STEP, SHARE = "step", "noise and update share"
TO_FLOOR, FORWARD_TO_FLOOR, SPEED_UP = "ratio to floor", "forward ratio to floor", "speed-up over published"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A model and a batch: what all contestants of a table evaluate.

    Attributes:
        model: Shape, folder or hub id; its weights are random.
        num_parameters: Of the base model.
        dtype, device: Of its weights.
        tuning: Scheme.
        objective: ``lm`` or ``classification``.
        batch: Rows.
        tokens: Tokens of a row, or ``FIRST-LAST``.
    """

    model: str
    num_parameters: int
    dtype: str
    device: str
    tuning: str
    objective: ProbedObjective
    batch: int
    tokens: str

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        shortest, longest = parse_tokens(self.tokens)
        steps = max(self.batch - 1, 1)
        return [longest - round(row * (longest - shortest) / steps) for row in range(self.batch)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Provenance):
    """One figure and everything one needs to judge it: a row of the ledger.

    Attributes:
        model, num_parameters, dtype, device, tuning, objective, batch, tokens: As in `Workload`.
        method: A method's name, `FLOOR` or `PUBLISHED`.
        engine: That measured; ``-`` for the latter two.
        num_directions, rank: Of the method; empty where it has no such setting.
        forwards: Evaluations of the loss in a step, as the method declares them.
        what: `STEP`, one of `PARTS`, `SHARE`, or a ratio: `TO_FLOOR` and `FORWARD_TO_FLOOR` to as many bare forwards,
            `SPEED_UP` of the published way with as many forwards over this.
        value: Median of `n` rounds.
        unit: Of value, low and high.
        low, high: The 20 and 80 % quantiles.
        n: Rounds.
    """

    model: str
    num_parameters: int
    dtype: str
    device: str
    tuning: str
    objective: str
    batch: int
    tokens: str
    method: str
    engine: str
    num_directions: int | str
    rank: int | str
    forwards: int
    what: str
    value: float
    unit: str
    low: float
    high: float
    n: int

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it the same figure, measured again."""
        return (*self.place, self.method, self.engine, self.num_directions, self.rank, self.what)

    @property
    def label(self) -> str:
        """How tables call the contestant: ``lozo, layerwise, rank 2``; one direction and no rank go without saying."""
        words = [self.method]
        if self.engine != "-":
            words.append(self.engine)
        if self.num_directions not in ("", 1):
            words.append(f"q {self.num_directions}")
        if self.rank != "":
            words.append(f"rank {self.rank}")
        return ", ".join(words)

    @property
    def place(self) -> tuple[object, ...]:
        """The workload that it is a figure of."""
        return tuple(getattr(self, field.name) for field in fields(Workload))


def parse_tokens(text: str) -> tuple[int, int]:
    """Return the shortest and the longest row that ``48`` or ``9-58`` means.

    Raises:
        UsageError: it is of another form, or a row would have less than two tokens.
    """
    form = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    shortest, longest = (int(form[1]), int(form[2] or form[1])) if form else (0, 0)
    if not 2 <= shortest <= longest:
        raise UsageError(f"--tokens {text}: give a length of at least 2, such as 48, or a range, such as 9-58.")
    return shortest, longest
