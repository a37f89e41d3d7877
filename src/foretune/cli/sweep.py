"""`foretune sweep`."""

from __future__ import annotations

import os
import signal
import sys
import time
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from foretune.cli.options import Options
from foretune.cli.train import parse
from foretune.errors import ForetuneError, UsageError

if TYPE_CHECKING:
    from foretune.sweeps.file import Sweep
    from foretune.sweeps.parameters import Parameter
    from foretune.sweeps.plan import Planned
    from foretune.sweeps.status import Status
    from foretune.sweeps.study import Study

STORAGE_VARIABLE = "FORETUNE_STORAGE"
_REFRESH_SECONDS = 2.0
_SHOWN_GROUPS = 12

_USAGE = """usage: foretune sweep FILE|SUITE... [OPTIONS] [any option of foretune train, for all trials]
       foretune sweep work --study NAME    take trials of a study, on this or any other machine
       foretune sweep status --study NAME  where a study stands
       foretune sweep suites               the published grids that come with foretune

foretune sweep --help lists the options. FILE is a YAML file in the form of W&B's sweeps."""


@dataclass(kw_only=True)
class StudyConfig:
    """Which study, and where its files are."""

    study: str | None = field(default=None, metadata={"help": "Name of the study; default: that of the file or suite."})
    storage: str | None = field(
        default=None,
        metadata={
            "help": "Database: sqlite:///FILE, postgresql://...; default: $FORETUNE_STORAGE, else SQLite in --output."
        },
    )
    output: str | None = field(
        default=None, metadata={"help": "Folder of the trials' folders on this machine; default: sweeps/STUDY."}
    )
    ledger: str | None = field(
        default=None, metadata={"help": "Ledger of the runs; default: $FORETUNE_LEDGER or runs.sqlite in --output."}
    )

    @property
    def name(self) -> str:
        """Of the study."""
        if self.study is None:
            raise UsageError("--study is missing: give the name of a study; 'foretune sweep FILE' prints it.")
        return self.study

    @property
    def folder(self) -> Path:
        """Of the trials."""
        return Path(self.output or f"sweeps/{self.name}")

    @property
    def url(self) -> str:
        """Of the database."""
        return self.storage or os.environ.get(STORAGE_VARIABLE) or f"sqlite:///{self.folder / 'study.sqlite'}"

    @property
    def ledger_path(self) -> Path | None:
        """The file that runs are written to."""
        from foretune.ledger import find_ledger

        return find_ledger(self.ledger, self.folder)


@dataclass(kw_only=True)
class SweepConfig(StudyConfig):
    """`foretune sweep FILE`."""

    workers: int = field(
        default=1, metadata={"help": "Processes that run trials on this machine; 0: only make the study."}
    )
    threads: int | None = field(
        default=None, metadata={"help": "Threads of each; default: the cores divided among them."}
    )
    where: list[str] | None = field(
        default=None, metadata={"help": "Conditions on the options of trials, for example method=mezo 'lr<=1e-4'."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Only print the trials and what they will take."})
    any_code: bool = field(
        default=False, metadata={"help": "Go on with a study that another version of foretune has begun."}
    )


@dataclass(kw_only=True)
class WorkConfig(StudyConfig):
    """`foretune sweep work`."""

    any_code: bool = field(
        default=False, metadata={"help": "Go on with a study that another version of foretune has begun."}
    )


def run(arguments: Sequence[str]) -> None:
    """Do what is asked for."""
    if not arguments:
        raise UsageError("sweep needs a file or a suite: foretune sweep FILE; 'foretune sweep suites' lists these.")
    actions = {"work": _work, "status": _status, "suites": _suites}
    action = actions.get(arguments[0])
    if action is not None:
        action(arguments[1:])
    else:
        _sweep(arguments)


def _sweep(arguments: Sequence[str]) -> None:
    """Plan, make the study, and run it."""
    names, own, overrides = _split(arguments)
    config: SweepConfig = _options("sweep", "Run many trainings from one file.", SweepConfig).parse(own)
    if not names:
        raise UsageError("sweep needs a file or a suite in front of its options: foretune sweep FILE.")
    if config.workers < 0:
        raise UsageError(f"--workers must be at least 0, got {config.workers}.")
    if config.threads is not None and config.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {config.threads}.")

    from foretune.cli.display import quiet_libraries
    from foretune.sweeps.code import check_code
    from foretune.sweeps.creation import create_study, items_of, plan_or_check
    from foretune.sweeps.file import join_sweeps, load_sweep, override
    from foretune.sweeps.plan import check_places
    from foretune.sweeps.study import hide_password

    quiet_libraries()
    sweep = override(join_sweeps([load_sweep(name) for name in names]), overrides)
    planned = plan_or_check(sweep, parse, config.where or ())
    config.study = config.study or sweep.name
    if config.dry_run:
        _print_forecast(config, sweep, planned)
        return
    if config.workers:
        check_places(planned)
    if config.folder.exists() and not config.folder.is_dir():
        raise UsageError(f"--output {config.folder} is a file; give a folder.")
    config.folder.mkdir(parents=True, exist_ok=True)
    items = items_of(sweep, planned)
    study = create_study(config.name, config.url, sweep, items)
    check_code(study, any_code=config.any_code)

    print(f"study {config.name}: {len(items)} trials, in {config.folder} and {hide_password(config.url)}")
    if config.workers:
        _drain(config, study)


def _work(arguments: Sequence[str]) -> None:
    """Take trials until the study is over."""
    config: WorkConfig = _options("sweep work", "Run trials of a study.", WorkConfig).parse(arguments)

    from foretune.cli.display import quiet_libraries
    from foretune.sweeps.study import Claim, Study
    from foretune.sweeps.worker import Worker

    def report(claim: Claim, outcome: str, value: float | None, error: str | None) -> None:
        print(f"{claim.item.folder}: {_ending(outcome, value, error)}", flush=True)

    quiet_libraries()
    study = Study.load(config.name, config.url)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # a shell has background processes ignore it
    Worker(study=study, parse=parse, output=config.folder, ledger=config.ledger, report=report).work(
        any_code=config.any_code
    )


def _status(arguments: Sequence[str]) -> None:
    """Print where a study stands."""
    config: StudyConfig = _options("sweep status", "Where a study stands.", StudyConfig).parse(arguments)

    from rich.console import Console

    from foretune.sweeps.status import status_of
    from foretune.sweeps.study import Study

    study = Study.load(config.name, config.url)
    Console().print(_view(config.name, status_of(study, config.ledger_path)), highlight=False)


def _suites(arguments: Sequence[str]) -> None:
    """List the suites."""
    if arguments:
        raise UsageError(f"sweep suites takes no arguments, got {' '.join(arguments)!r}.")
    from foretune.cli.display import print_table
    from foretune.sweeps.file import describe_suite, suite_names

    print_table("Suites", ("name", "what"), [(name, describe_suite(name)) for name in suite_names()])


def _drain(config: SweepConfig, study: Study) -> None:
    """Run workers until the study is over, and show how it goes."""
    from rich.console import Console
    from rich.live import Live

    from foretune.sweeps.pool import Pool
    from foretune.sweeps.status import status_of

    threads = str(config.threads or max(1, (os.cpu_count() or 1) // config.workers))
    command = [sys.executable, "-m", "foretune.cli.main", "sweep", "work", "--study", config.name]
    command += ["--output", str(config.folder), *(["--any-code"] if config.any_code else [])]
    command += [] if config.ledger is None else ["--ledger", config.ledger]
    environment = {STORAGE_VARIABLE: config.url}  # it may hold a password, which a command line would show
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
    console = Console()
    shown = set(status_of(study, None).ended)
    with (
        Pool(command, config.workers, environment, config.folder / "logs") as pool,
        Live(console=console, auto_refresh=False, transient=True) as live,
    ):
        while pool.look_after():
            status = status_of(study, config.ledger_path)
            for folder, trial in status.ended.items():
                if folder not in shown:
                    shown.add(folder)
                    line = _ending(trial.state, trial.value, trial.error)
                    console.print(f"{len(shown)}/{status.num_trials} {folder}: {line}", highlight=False, markup=False)
            if console.is_terminal:
                live.update(_view(config.name, status), refresh=True)
            time.sleep(_REFRESH_SECONDS)
    status = status_of(study, config.ledger_path)
    console.print(_view(config.name, status), highlight=False)
    if not study.is_over():
        logs = ", ".join(str(pool.log_of(number)) for number in range(config.workers))
        raise ForetuneError(
            f"The workers left before study {config.name} was over (exit codes {pool.exit_codes}); see {logs}. The "
            "same command goes on."
        )
    failed = [trial for trial in status.ended.values() if trial.state == "failed"]
    if len(failed) == status.num_trials:
        raise ForetuneError(f"Every trial of study {config.name} failed, the first with {failed[0].error}")


def _print_forecast(config: SweepConfig, sweep: Sweep, planned: Sequence[Planned]) -> None:
    """Print what the trials are and will take."""
    from foretune.cli.display import print_table
    from foretune.sweeps.forecast import PROBED_TOKENS, forecast

    if sweep.method == "bayes":
        print(f"{sweep.run_cap} trials are proposed one by one; of one:")
    rows = []
    found = forecast(planned, parse, config.ledger_path)
    for entry in found:
        memory = "unknown" if entry.memory_bytes is None else f"{entry.memory_bytes / 2**30:.2f} GiB"
        hours = "unknown" if entry.seconds is None else f"{entry.seconds / 3600:.2f}"
        passes = "unknown" if entry.forward_passes is None else f"{entry.forward_passes:,}"
        rows.append((entry.group, str(entry.num_trials), passes, memory, hours))
    print_table(
        f"{sweep.name}, method {sweep.method}, chosen by {sweep.metric}",
        ("trials of", "trials", "forward passes", "memory", "hours"),
        rows,
    )
    trials = sum(entry.num_trials for entry in found)
    budgets = [entry.forward_passes for entry in found if entry.forward_passes is not None]
    total = f"{sum(budgets):,}" if len(budgets) == len(found) else "an unknown number of"
    known = [entry.seconds for entry in found if entry.seconds is not None]
    time_left = f"{sum(known) / 3600 / max(1, config.workers):.2f}" if len(known) == len(found) else "unknown"
    print(
        f"{trials} trials, {total} forward passes (a backward pass counts as two), hours with {config.workers} "
        f"worker(s): {time_left}. Memory: the tensors of a step on rows of {PROBED_TOKENS} tokens, at most; hours: "
        "from finished runs of the ledger."
    )


def _view(name: str, status: Status) -> Any:
    """Return a table of what runs, under a line of counts, with the best of some groups."""
    from rich.console import Group
    from rich.table import Table

    counts = ", ".join(f"{count} {state}" for state, count in sorted(status.counts.items()))
    left = "" if status.seconds_left is None else f", about {_duration(status.seconds_left)} left"
    parts: list[Any] = [f"study {name}: {status.num_trials} trials, {counts}{left if status.running else ''}"]
    if status.running:
        table = Table("running", "steps", "worker")
        for entry in status.running:
            steps = "begins" if entry.steps is None else f"{entry.steps}/{entry.total_steps}"
            table.add_row(entry.folder, steps, entry.worker or "")
        parts.append(table)
    if status.best:
        table = Table("best so far of", "metric", "trial")
        for group, trial in list(status.best.items())[-_SHOWN_GROUPS:]:
            table.add_row(group, f"{trial.value:.4f}", trial.item.folder)
        parts.append(table)
    return Group(*parts)


def _ending(outcome: str, value: float | None, error: str | None) -> str:
    return outcome + ("" if value is None else f", {value:.4f}") + ("" if error is None else f": {error}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options(command: str, description: str, config: type) -> Options:
    options = Options(command, description, config)
    if command == "sweep":
        options.parser.usage = _USAGE.removeprefix("usage: ")
    return options


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str], dict[str, Parameter]]:
    """Return the names in front, the command's own options, and those of `foretune train` with their values."""
    from foretune.runs.config import TrainConfig
    from foretune.sweeps.parameters import Values, read_parameter

    known = {entry.name for entry in fields(SweepConfig)} | {"help"}
    lists = {name for name, hint in typing.get_type_hints(TrainConfig).items() if "list" in str(hint)}
    names: list[str] = []
    own: list[str] = []
    overrides: dict[str, Parameter] = {}
    given: dict[str, list[str]] = {}
    current: list[str] = names
    for word in arguments:
        if not word.startswith("-") or _is_number(word):
            current.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name in known or word == "-h":
            own.append(word)
            current = own
        else:
            current = given.setdefault(name, [])
            current += [value] if equals else []
    for name, values in given.items():
        if not values:
            values = ["true"]
        overrides[name] = Values((values,)) if name in lists else read_parameter(name, values, "options")
    return names, own, overrides


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
