"""A JSON file with the results of a command: where it may be, and written as a whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretune.errors import UsageError
from foretune.trainer.checkpoint import writing


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """Where the results of a command go.

    Attributes:
        path: The file.
        option: The option that names it.
        what: What its results are of.
        telling: A key of theirs that no other file has.
        again: What to do where it cannot be written in the end.
    """

    path: Path
    option: str
    what: str
    telling: str
    again: str

    def check(self) -> None:
        """Refuse a place where results cannot be written, or would overwrite something else.

        Raises:
            UsageError: naming the option.
        """
        if self.path.is_dir():
            raise UsageError(f"{self.option} {self.path} is a folder; give a file.")
        if not self.path.parent.is_dir():
            raise UsageError(
                f"{self.option} {self.path}: there is no folder {self.path.parent}; make it, or give another file."
            )
        if self.path.is_file() and not self._is_one():
            raise UsageError(
                f"{self.option} {self.path} is there and holds no results of {self.what}; give another file."
            )

    def write(self, results: Mapping[str, Any]) -> None:
        """Write results to the file, the whole of it or nothing, or to a device.

        Raises:
            CheckpointError: the system refuses.
        """
        text = json.dumps(results, indent=2) + "\n"
        with writing(self.path, then=self.again):
            if self.path.exists() and not self.path.is_file():
                self.path.write_text(text)
                return
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            try:
                temporary.write_text(text)
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)

    def _is_one(self) -> bool:
        try:
            return self.telling in json.loads(self.path.read_text())
        except (ValueError, TypeError):
            return False
