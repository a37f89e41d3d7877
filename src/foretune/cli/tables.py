"""Tables, without what a run needs: a command that only prints one starts in a moment."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; wide cells wrap on a terminal and are left whole elsewhere."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(100, console.width), file=sys.stdout)
    console.print(table, highlight=False, markup=False)
