"""What the ledger knows of one run, and of one of its steps."""

from __future__ import annotations

import hashlib
import json
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from foretune.liveness import process_start

Status = Literal["running", "finished", "failed", "stopped", "pruned", "diverged", "imported"]
STATUSES: tuple[str, ...] = get_args(Status)
DEAD = "dead"
"""How a run shows that says it is running, and whose process is gone."""

HEARTBEAT = timedelta(seconds=15)
"""Time between two signs of life of a running run."""
_SILENCE = 20 * HEARTBEAT

OWN_SOURCE = "foretune"

SEEDS = ("seed", "train_set_seed")
"""Settings over which a mean and a spread are taken."""

INCIDENTAL = frozenset(
    {
        *("output", "resume", "ledger", "config", "data_dir", "device", "trust_remote_code"),
        *("eval_batch_size", "log_steps", "diagnostics"),
    }
)
"""Settings that change where a run is, and how fast or how closely watched, but not what it computes."""

Value = str | int | float | bool | datetime | list[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: a row of the ledger.

    Attributes:
        id: Unlike that of any other run.
        name: What people call it; the name of its folder.
        status: Where it stands; `imported` where another program's log does not say. See `state`.
        source: Who wrote the log: foretune, or the format it was imported from.
        method, task, tuning, model: As options spell them; None where an imported log does not say.
        seed, train_set_seed: Of directions and the order of rows, and of the draw of rows.
        config: Every setting as it took effect.
        model_hash, data_hash: Of the weights before tuning, and of training and dev rows.
        versions: Of Python and the packages that matter, by name.
        commit: Of foretune, with a + where files differed from it; None where it was installed without its history.
        device: In words.
        host, pid: Where it ran last.
        started, heartbeat, ended: When it began, last gave a sign of life, and was over (with time zone).
        steps, total_steps: Optimizer steps made, and those that were asked for.
        metrics: By dotted name, each a share of 1 or a loss: `zero_shot.*` and `final.*` on test rows, `dev.*` of the
            step whose model is the final one, `majority.*` of always giving the most frequent answer;
            `overlap.dev_test`, where there is any, the share of dev rows that are test rows as well.
        seconds: Wall clock over all parts of an interrupted run, with loading and evaluations.
        seconds_per_step: Mean of the measured steps, without evaluations.
        peak_memory_bytes: Of the GPU, or of the process on a CPU.
        forward_passes, backward_passes: Made by the steps, evaluations not counted; a first-order step makes one each.
        study, trial, suite: The sweep it belongs to, its number there, and the named suite; None for a run alone.
        output: Its folder.
        error: Why it failed, in a line.
    """

    id: str
    name: str
    status: Status = "running"
    source: str = OWN_SOURCE
    method: str | None = None
    task: str | None = None
    tuning: str | None = None
    model: str | None = None
    seed: int | None = None
    train_set_seed: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    model_hash: str | None = None
    data_hash: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    device: str | None = None
    host: str | None = None
    pid: int | None = None
    started: datetime | None = None
    heartbeat: datetime | None = None
    ended: datetime | None = None
    steps: int = 0
    total_steps: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    seconds_per_step: float | None = None
    peak_memory_bytes: int | None = None
    forward_passes: int | None = None
    backward_passes: int | None = None
    study: str | None = None
    trial: int | None = None
    suite: str | None = None
    output: str | None = None
    error: str | None = None

    @property
    def state(self) -> str:
        """The status, or `dead` for a running run without a process.

        The process is looked for on its own machine; one on another machine is dead when it has been silent for five
        minutes.
        """
        if self.status != "running" or not self._is_dead():
            return self.status
        return DEAD

    def _is_dead(self) -> bool:
        if self.host == socket.gethostname() and self.pid is not None and process_start(self.pid) is None:
            return True
        return self.heartbeat is None or now() - self.heartbeat > _SILENCE

    @property
    def is_imported(self) -> bool:
        """Whether another program's log was the origin."""
        return self.source != OWN_SOURCE

    @property
    def config_hash(self) -> str:
        """Digest of the settings but for the run seed and what changes no result: with the seed, the key of a run."""
        return _digest({name: value for name, value in self.config.items() if name not in INCIDENTAL | {"seed"}})

    @property
    def settings_hash(self) -> str:
        """The same but for all seeds (`SEEDS`): equal for runs over which a mean is taken."""
        return _digest({name: value for name, value in self.config.items() if name not in {*INCIDENTAL, *SEEDS}})

    def values(self) -> dict[str, Value]:
        """Return everything by name: fields, `state`, hashes, then metrics and settings by dotted names.

        Settings are called `config.NAME`, metrics as they are.
        """
        own: dict[str, Value] = {column.name: getattr(self, column.name) for column in fields(self)}
        del own["config"], own["metrics"], own["versions"]
        own |= {"state": self.state, "config_hash": self.config_hash, "settings_hash": self.settings_hash}
        own |= self.metrics
        own |= {f"versions.{name}": version for name, version in self.versions.items()}
        return own | {f"config.{name}": value for name, value in flatten(self.config)}


@dataclass(frozen=True, slots=True)
class Point:
    """Figures of a run after `step` optimizer steps, by name.

    Names are those of metrics.jsonl (`loss`, `learning_rate`, `eval_loss`, `diagnostics.lora_a.norm`, ...) and, of the
    run up to there, `seconds`, `forward_passes` and `backward_passes`. A loss that is not finite is nan.
    """

    step: int
    figures: dict[str, float]


def new_id() -> str:
    """Return an id that no other run has: twelve hexadecimal digits."""
    return uuid.uuid4().hex[:12]


def now() -> datetime:
    """Return the time, in UTC, to the millisecond."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of every leaf of nested settings, an empty one included."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _digest(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
