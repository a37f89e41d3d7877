"""`foretune demo`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from foretune.cli.options import find_value
from foretune.errors import UsageError


def run(arguments: Sequence[str]) -> None:
    """Make a tiny model and rows, tune the model with MeZO, print the closing table."""
    if {"-h", "--help"} & set(arguments):
        print("usage: foretune demo [--output DIR]\n\nMakes a tiny model and rows, and tunes it without a gradient.")
        return
    output = find_value(arguments, "--output")
    if arguments and output is None:
        raise UsageError(f"foretune demo takes only --output DIR, got {' '.join(arguments)!r}.")
    folder = Path(tempfile.mkdtemp(prefix="foretune-demo-") if output is None else output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file; give a folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--output {folder} is not empty; choose another folder.")

    import torch

    from foretune.cli.display import Progress, print_results, quiet_libraries
    from foretune.runs.demo import make_demo
    from foretune.runs.train import train

    quiet_libraries()
    torch.set_num_threads(1)  # a model this small is slower on several
    print("Making a tiny language model and 1,400 reviews ...")
    config = make_demo(folder)
    print("Tuning it with forward passes only (MeZO) ...")
    with Progress() as progress:
        results = train(config, callbacks=[progress.callback])
    print_results(results, config.output)
