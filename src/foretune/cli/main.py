"""Entry point: finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version

from foretune.cli.options import write_error
from foretune.errors import ForetuneError, UsageError, near_misses

COMMANDS = {
    "train": "Tune a model on a task with forward passes only.",
    "sweep": "Run many trainings from one file or a published suite, with any number of workers.",
    "evaluate": "Accuracy of a model, an adapter or a run's final model on a task.",
    "replay": "Rebuild a run's model from its journal, without data.",
    "tasks": "List the tasks, or show an example of one as a model reads it.",
    "data": "Download the rows of tasks once, for machines without a network.",
    "probe": "Measure on a few batches which zo_eps and lr to train with, and what it will take.",
    "estimate": "Predict the memory of a run before anything is loaded.",
    "bench": "Measure memory and time of methods on random tokens.",
    "migrate": "Translate a command of a research code (MeZO, ZO-LLM, SubZero, ...) into one of foretune.",
    "runs": "List, show, compare, export and import runs.",
    "report": "Compare runs in a page, as tables or as figures.",
    "methods": "List the methods, or show one with its options.",
    "demo": "See it work: a small model learns a task in about a minute, without a network.",
    "env": "Show versions, devices and noise backends.",
}

EXIT_USAGE = 2
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code: 0, 2 (wrong use), 1 (failed), 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if words else EXIT_USAGE
    if words[0] in ("--version", "-V"):
        print(f"foretune {version('foretune')}")
        return 0
    logging.basicConfig(level=logging.WARNING, format="foretune: %(message)s")
    try:
        if words[0] not in COMMANDS:
            raise UsageError(f"Unknown command {words[0]!r}.{near_misses(words[0], COMMANDS)}")
        importlib.import_module(f"foretune.cli.{words[0]}").run(words[1:])
    except UsageError as error:
        write_error(str(error))
        return EXIT_USAGE
    except ForetuneError as error:
        write_error(str(error))
        return EXIT_FAILURE
    except OSError as error:
        write_error(_explain(error))
        return EXIT_FAILURE
    except KeyboardInterrupt as interrupt:
        how = str(interrupt) or "a training run goes on with the same command and --resume."
        write_error(f"interrupted; {how}")
        return EXIT_INTERRUPTED
    except SystemExit as error:  # --help of a command
        return int(error.code or 0)
    return 0


def _explain(error: OSError) -> str:
    """Say what the system refused, and what to do where it is room that is missing."""
    where = f"{error.filename}: " if error.filename is not None else ""
    hint = " Make room; a training run then goes on with --resume." if error.errno in _NO_ROOM else ""
    return f"{where}{error.strerror or error}.{hint}"


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: foretune COMMAND [OPTIONS]   (foretune COMMAND --help)", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
