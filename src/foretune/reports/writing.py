"""A report in a file, in one of its formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from foretune.errors import UsageError, near_misses
from foretune.reports.figures import write_figures
from foretune.reports.latex import to_latex
from foretune.reports.markdown import to_markdown
from foretune.reports.report import Report
from foretune.reports.web.page import to_html

Format = Literal["html", "markdown", "latex", "figures"]
FORMATS: tuple[str, ...] = get_args(Format)
_ENDINGS = {".html": "html", ".htm": "html", ".md": "markdown", ".tex": "latex"}
_WRITERS: dict[str, Callable[[Report], str]] = {"html": to_html, "markdown": to_markdown, "latex": to_latex}


def check_target(output: str, chosen: str | None) -> str:
    """Return the format, before any run is read.

    Args:
        output: File, or folder for figures.
        chosen: The format; None: by the ending of `output`.
    Raises:
        UsageError: the output is missing or no place for the format, or the format is unknown or not to be seen from
            the output.
    """
    if not output:
        raise UsageError("--output is missing: give a file such as report.html, report.md or report.tex.")
    if chosen is not None and chosen not in FORMATS:
        raise UsageError(f"--format {chosen}: there is no such format.{near_misses(chosen, FORMATS)}")
    path = Path(output)
    found = chosen or _ENDINGS.get(path.suffix.casefold())
    if found is None:
        raise UsageError(
            f"--output {output}: its ending is none of {', '.join(_ENDINGS)}; say which --format is meant."
        )
    if found == "figures":
        if path.exists() and not path.is_dir():
            raise UsageError(f"--output {output} is a file; --format figures needs a folder.")
    elif path.is_dir():
        raise UsageError(f"--output {output} is a folder; --format {found} needs a file.")
    return found


def write(report: Report, output: Path, kind: str) -> list[Path]:
    """Write a report, and the folders above it, and return the files.

    Raises:
        UsageError: the system refuses.
    """
    try:
        if kind == "figures":
            output.mkdir(parents=True, exist_ok=True)
            return write_figures(report, output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(_WRITERS[kind](report), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output {output} cannot be written: {error.strerror or error}.") from error
    return [output]
