"""`foretune report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foretune.cli.options import Options
from foretune.errors import UsageError


@dataclass(kw_only=True)
class ReportConfig:
    """`foretune report`: of which runs, what, and where to."""

    paths: list[str] | None = field(
        default=None,
        metadata={"help": "Ledgers or run folders; default: $FORETUNE_LEDGER, else runs.sqlite here or in runs."},
    )
    output: str = field(default="", metadata={"help": "File, or with --format figures a folder."})
    format: str | None = field(
        default=None,
        metadata={
            "help": "html, markdown, latex (tables) or figures (SVG and PNG); default: by the ending of --output."
        },
    )
    where: list[str] | None = field(
        default=None, metadata={"help": "Conditions that all hold, for example task=sst2 'steps>=1000'."}
    )
    target: list[float] | None = field(
        default=None,
        metadata={
            "help": "Dev figures whose cost is shown, for example 0.8 0.9; default: parts of the way to the best."
        },
    )
    title: str = field(default="Runs compared", metadata={"help": "Heading."})


def run(arguments: Sequence[str]) -> None:
    """Write a report and say where it is."""
    words = ["--output" if word == "-o" else word for word in arguments]
    if words and not words[0].startswith("-"):
        words = ["--paths", *words]
    text = "Compare runs: foretune report LEDGER|RUN_FOLDER... -o report.html"
    config: ReportConfig = Options("report", text, ReportConfig).parse(words)

    from foretune.reports.report import build
    from foretune.reports.sources import read_logs
    from foretune.reports.writing import check_target, write

    kind = check_target(config.output, config.format)
    for target in config.target or ():
        if target <= 0:
            raise UsageError(f"--target {target:g}: a dev figure is above 0; accuracies are shares of 1, such as 0.9.")
    logs = read_logs(config.paths or (), config.where or ())
    report = build(logs, title=config.title, targets=config.target or ())
    files = write(report, Path(config.output), kind)
    for skipped in report.skipped:
        print(skipped)
    lines = sum(line.choice is not None for line in report.leaderboard)
    what = f"{len(report.runs)} runs, {lines} lines of the leaderboard"
    print(f"{what}, in {config.output}" + (f" ({len(files)} files)" if kind == "figures" else ""))
