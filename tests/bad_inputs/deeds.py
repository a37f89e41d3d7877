"""What happens to files before a command is run, as words: ``cut run/journal 300``."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

from foretune.liveness import machine, process_start
from foretune.runs.holding import HOLDER_NAME


def cut(path: str, size: str) -> None:
    """Leave the first `size` bytes, or without the last ones where it is negative."""
    os.truncate(path, int(size) if int(size) >= 0 else Path(path).stat().st_size + int(size))


def flip(path: str, place: str) -> None:
    """Change a bit of one byte; a negative place counts from the end."""
    data = bytearray(Path(path).read_bytes())
    data[int(place)] ^= 1
    Path(path).write_bytes(data)


def replace(path: str, old: str, new: str) -> None:
    """Replace a text that is there once."""
    text = Path(path).read_text()
    assert text.count(old) == 1
    Path(path).write_text(text.replace(old, new))


def zeros(path: str, count: str) -> None:
    """Append zero bytes, as a power failure leaves them."""
    with Path(path).open("ab") as file:
        file.write(bytes(int(count)))


def remove(*paths: str) -> None:
    """Remove files and folders."""
    for path in map(Path, paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def copy(source: str, target: str) -> None:
    """Copy a file or a folder."""
    shutil.copytree(source, target) if Path(source).is_dir() else shutil.copy(source, target)


def move(source: str, target: str) -> None:
    """Move a file or a folder."""
    shutil.move(source, target)


def folder(path: str) -> None:
    """Make an empty folder."""
    Path(path).mkdir(parents=True)


def hold(path: str) -> None:
    """Let another process, which is there, be at a run."""
    pid = os.getppid()
    holder = {"machine": machine(), "pid": pid, "start": process_start(pid)}
    Path(path, HOLDER_NAME).write_text(json.dumps(holder))


def recode(path: str, encoding: str) -> None:
    """Write a UTF-8 file in another encoding."""
    Path(path).write_bytes(Path(path).read_text(encoding="utf-8").encode(encoding))


def set_(path: str, key: str, value: str) -> None:
    """Set one key of a JSON file."""
    content = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(content | {key: json.loads(value)}))


DEEDS = {
    function.__name__.rstrip("_"): function
    for function in (cut, flip, replace, zeros, remove, copy, move, folder, hold, recode, set_)
}


def do(deed: str) -> None:
    """Do what a row's `before` says."""
    name, *arguments = shlex.split(deed)
    DEEDS[name](*arguments)
