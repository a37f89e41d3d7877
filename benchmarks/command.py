"""The command line of a comparison: measure what is missing from a ledger, then write the page made of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence


def parse(
    description: str, arguments: Sequence[str] | None, *, only: str, add: Callable[[ArgumentParser], object]
) -> Namespace:
    """Return the options of a script.

    Args:
        description: Of the script.
        arguments: Words; None for those of the process.
        only: What ``--only`` names, in capitals.
        add: Adds the script's own options.
    Raises:
        SystemExit: an option is wrong, or something is to be measured without a model or data.
    """
    parser = ArgumentParser(description=description)
    parser.add_argument("--model", help="folder of the model")
    parser.add_argument("--data-dir", help="folder with <task>/{train,validation}.jsonl")
    parser.add_argument("--only", nargs="+", metavar=only, help="measure only these")
    parser.add_argument("--page", action="store_true", help="only write the page")
    add(parser)
    options = parser.parse_args(arguments)
    if not options.page and not (options.model and options.data_dir):
        parser.error("--model and --data-dir are needed to measure")
    return options
