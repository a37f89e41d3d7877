"""Every row of the table: one line that names what is wrong, an exit code, and nothing lost."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from bad_inputs import deeds
from bad_inputs.moments import press
from bad_inputs.table import BadInput, in_full, load_table
from foretune.cli.main import main

TABLE = load_table()


def files_of(folder: Path) -> dict[str, bytes | None]:
    """Return the content of all files, and the folders, by their relative paths."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in sorted(found.items())}


@pytest.fixture
def weights_are_read(monkeypatch):
    """List of the models whose weights were read."""
    read = []
    original = PreTrainedModel.from_pretrained.__func__

    def spy(cls, model, *args, **kwargs):
        read.append(model)
        return original(cls, model, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(spy))
    return read


def act(row: BadInput, place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, bytes | None]]:
    """Do what the user did; return the exit code, and the files as they were before the command."""
    for name, text in row.files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    for deed in row.before:
        deeds.do(deed)
    before = files_of(place)
    with monkeypatch.context() as patch, largest_file(row.largest_file):
        if row.interrupt is not None:
            press(row.interrupt, patch)
        return main(row.words), before


@contextmanager
def largest_file(size: int | str | None) -> Iterator[None]:
    """Let the system refuse whatever would make a file larger, as it does on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if isinstance(size, str):
        file, difference = size.split()
        size = Path(file).stat().st_size + int(difference)
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_one_line_that_says_what_is_wrong(row, place, weights_are_read, capsys, monkeypatch):
    code, before = act(row, place, monkeypatch)
    (line,) = capsys.readouterr().err.splitlines()
    assert row.pattern.fullmatch(line), line
    assert code == row.code
    assert bool(weights_are_read) == row.loads
    after = files_of(place)
    touched = {name for name in before.keys() | after.keys() if before.get(name, "") != after.get(name, "")}
    assert {name.partition("/")[0] for name in touched} == set(row.leaves)
    if row.resumes is not None:
        assert_goes_on(row)


def assert_goes_on(row: BadInput) -> None:
    """Do what is to be done then and resume the run: it ends bit for bit as one does that nothing happened to."""
    for deed in row.then:
        deeds.do(deed)
    assert main(in_full(f"train ... --resume --output {row.resumes}")) == 0
    for name in ("journal", "metrics.jsonl", "final/model.safetensors"):
        assert Path(row.resumes, name).read_bytes() == Path("run", name).read_bytes(), name


def test_the_page_is_current(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "docs")
    import generate_bad_inputs

    assert generate_bad_inputs.PAGE.read_text(encoding="utf-8") == generate_bad_inputs.page(), "run `make docs`"
