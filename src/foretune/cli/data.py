"""`foretune data`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foretune.cli.options import Options, write_error
from foretune.errors import ForetuneError, UsageError, near_misses

_USAGE = """usage: foretune data fetch TASK... --to DIR   (or all; foretune data fetch --help)
       foretune data check DIR

fetch  Download the rows of tasks once, for --data-dir on machines without a network.
check  Compare the files of such a folder with their recorded hashes."""


@dataclass(kw_only=True)
class FetchConfig:
    """`foretune data fetch`: what is downloaded, and where it goes."""

    tasks: list[str] | None = field(
        default=None, metadata={"help": "Tasks, or all; in front of other options the names alone will do."}
    )
    to: str = field(default="", metadata={"help": "Folder for the rows: <to>/<task>/<split>.jsonl."})


def run(arguments: Sequence[str]) -> None:
    """Download rows, or check those that were."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        if not words:
            raise UsageError("foretune data needs to be told what to do: fetch or check.")
        return
    actions = {"fetch": _fetch, "check": _check}
    if words[0] not in actions:
        raise UsageError(f"Unknown action {words[0]!r} of foretune data.{near_misses(words[0], actions)}")
    actions[words[0]](words[1:])


def _fetch(words: list[str]) -> None:
    if words and not words[0].startswith("-"):
        words = ["--tasks", *words]
    options = Options("data fetch", "Download the rows of tasks: foretune data fetch TASK... --to DIR.", FetchConfig)
    config = options.parse(words)
    if not config.tasks:
        raise UsageError("No task was named: foretune data fetch TASK... --to DIR, or all.")
    if not config.to:
        raise UsageError("--to is missing: give a folder for the rows, for example data.")
    if Path(config.to).exists() and not Path(config.to).is_dir():
        raise UsageError(f"--to {config.to} is a file; give a folder for the rows.")

    from foretune.data.fetch import fetch_task
    from foretune.tasks import get_task, list_tasks

    tasks = [get_task(name) for name in (list_tasks() if config.tasks == ["all"] else config.tasks)]
    failed = []
    for task in tasks:
        try:
            fetched, downloaded = fetch_task(task, config.to)
        except (ForetuneError, OSError) as error:  # the others are still worth having
            if len(tasks) == 1:
                raise
            write_error(str(error))
            failed.append(task.name)
            continue
        rows = ", ".join(f"{split} {file.num_rows}" for split, file in fetched.files.items())
        origin = f"{fetched.dataset}@{fetched.commit[:10]}" if fetched.commit else fetched.dataset
        print(f"{task.name}: {rows} rows of {origin}{'' if downloaded else ', already there'}")
    if failed:
        raise UsageError(f"{len(failed)} of {len(tasks)} tasks could not be fetched: {', '.join(failed)}.")
    print(f"Use them with --data-dir {config.to}")


def _check(words: list[str]) -> None:
    if words in (["-h"], ["--help"]):
        print(_USAGE)
        return
    if len(words) != 1 or words[0].startswith("-"):
        raise UsageError("foretune data check takes one folder: foretune data check DIR.")

    from foretune.data.fetch import SOURCE_NAME, check_task

    if not (found := sorted(path.parent for path in Path(words[0]).glob(f"*/{SOURCE_NAME}"))):
        raise UsageError(f"'{words[0]}' has no folder with a {SOURCE_NAME}, which 'foretune data fetch' writes.")
    failed = []
    for folder in found:
        try:
            fetched = check_task(folder)
        except UsageError as error:
            write_error(str(error))
            failed.append(folder.name)
        else:
            print(f"{folder.name}: {', '.join(fetched.files)} as fetched")
    if failed:
        raise ForetuneError(f"{len(failed)} of {len(found)} tasks are not as fetched: {', '.join(failed)}.")
