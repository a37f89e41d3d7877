"""A report as LaTeX tables, for a paper that uses booktabs."""

from __future__ import annotations

from foretune.reports.report import Report
from foretune.reports.tables import Table, tables

_MARKS = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "–": "--",
    "\u202f": r"\,",
}


def to_latex(report: Report) -> str:
    """Return the tables; what to know before comparing stands above them as comments."""
    head = ["% Needs \\usepackage{booktabs}."]
    entries = [*report.notes, *report.skipped]
    head += [f"% {' '.join(entry.split())}" for entry in entries]
    return "\n".join(head) + "\n\n" + "\n\n".join(map(_table, tables(report))) + "\n"


def _table(table: Table) -> str:
    kinds = "".join("r" if head.startswith(">") else "l" for head in table.heads)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(table.title)}. {_escape(table.caption)}}}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        _row(tuple(head.removeprefix(">") for head in table.heads)),
        r"\midrule",
        *map(_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return " & ".join(map(_escape, cells)) + r" \\"


def _escape(text: str) -> str:
    return "".join(_MARKS.get(character, character) for character in text)
