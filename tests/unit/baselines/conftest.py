from __future__ import annotations

import pytest
import torch

from foretune.objectives import EncodedExample


@pytest.fixture
def separable_rows():
    """Function `(count, words)` that makes rows whose last token before the word, 3 or 4 or 5, says which is right."""

    def make(count=40, words=(30, 31)):
        generator = torch.Generator().manual_seed(0)
        rows = []
        for index in range(count):
            right = index % len(words)
            ids = (*torch.randint(6, 10, (3,), generator=generator).tolist(), 3 + right)
            options = tuple((*ids, word) for word in words)
            rows.append(EncodedExample(options, (1,) * len(words), (right,), f"row {index}"))
        return rows

    return make
