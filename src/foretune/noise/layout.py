"""Which elements of a tensor a call writes, and their indexes in the whole parameter."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Window(NamedTuple):
    """Place of a local 2-D block within a larger matrix (a shard of a weight).

    Attributes:
        row_start: Row of the full matrix that is row 0 of the block.
        col_start: Column of the full matrix that is column 0 of the block.
        full_width: Number of columns of the full matrix.
    """

    row_start: int
    col_start: int
    full_width: int


class Layout(NamedTuple):
    """A contiguous tensor seen as rows, and the index in the whole parameter of each element.

    Element (i, c) of the local tensor is element ``(row_start + i) * full_width + col_start + c`` of the
    parameter.

    Attributes:
        num_rows: Rows of the local tensor.
        row_length: Elements of a local row.
        row_start, col_start, full_width: As in `Window`.
        rows: Local rows to write, int64 of shape (R,); None for all of them.
    """

    num_rows: int
    row_length: int
    row_start: int
    col_start: int
    full_width: int
    rows: Tensor | None = None

    @property
    def num_selected(self) -> int:
        """Rows that are written."""
        return self.num_rows if self.rows is None else self.rows.numel()
