"""A report as Markdown."""

from __future__ import annotations

from foretune.reports.report import Report
from foretune.reports.tables import Table, tables


def to_markdown(report: Report) -> str:
    """Return the tables, below what to know before comparing."""
    parts = [f"# {report.title}"]
    if entries := [*report.notes, *report.skipped]:
        parts.append("\n".join(f"- {_escape(entry)}" for entry in entries))
    parts += map(_table, tables(report))
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [
        _row([head.removeprefix(">") for head in table.heads]),
        _row(["---:" if head.startswith(">") else "---" for head in table.heads]),
        *(_row(row) for row in table.rows),
    ]
    return f"## {_escape(table.title)}\n\n" + "\n".join(lines) + f"\n\n{table.caption}"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(text: str) -> str:
    """Keep names from being read as marks: they may hold any character."""
    for mark in ("\\", "|", "*", "_", "<", "`", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split("\n"))
