"""A copy of what is tuned, bit for bit, that takes no memory: in a file without a name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import torch

from foretune.errors import ForetuneError
from foretune.types import Trainable


class KeptWeights:
    """The values of tensors at one moment, to go back to as often as wanted; one tensor at a time is in memory.

    Args:
        trainables: The tensors.
        file: Written at once, read by `restore`.
    """

    def __init__(self, trainables: Sequence[Trainable], file: BinaryIO) -> None:
        self._trainables = trainables
        self._file = file
        for trainable in trainables:
            values = trainable.parameter.detach().reshape(-1).cpu().view(torch.uint8)  # numpy has no bfloat16
            file.write(values.numpy().data)
        file.flush()

    @torch.no_grad()
    def restore(self) -> None:
        """Give every tensor the bits that it had."""
        self._file.seek(0)
        for trainable in self._trainables:
            parameter = trainable.parameter
            values = torch.empty(parameter.shape, dtype=parameter.dtype)
            self._file.readinto(values.reshape(-1).view(torch.uint8).numpy().data)  # type: ignore[attr-defined]
            parameter.copy_(values)


@contextmanager
def kept_weights(trainables: Sequence[Trainable]) -> Iterator[KeptWeights]:
    """Keep the values of tensors; they have them again when the block is left, however it is left.

    The file lies in the folder for temporary files (TMPDIR), is as large as the tensors, and is gone with the process,
    even if that is killed.

    Raises:
        ForetuneError: there is no room for it.
    """
    with tempfile.TemporaryFile() as file:
        try:
            kept = KeptWeights(trainables, file)
        except OSError as error:
            size = sum(trainable.parameter.nbytes for trainable in trainables)
            raise ForetuneError(
                f"Cannot keep the weights in {tempfile.gettempdir()}: {os.strerror(error.errno or 0)}. They take "
                f"{size / 2**20:,.0f} MiB; set TMPDIR to a folder with that much room."
            ) from error
        try:
            yield kept
        finally:
            kept.restore()
