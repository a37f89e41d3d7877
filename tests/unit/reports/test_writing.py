"""Formats and outputs: what is refused before any run is read, and what is written."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.reports.writing import check_target, write


@pytest.mark.parametrize(
    ("output", "chosen", "kind"),
    [
        ("report.html", None, "html"),
        ("a/b.md", None, "markdown"),
        ("t.tex", None, "latex"),
        ("figures", "figures", "figures"),
        ("report.txt", "markdown", "markdown"),
    ],
)
def test_the_format_is_named_or_seen_from_the_output(output, chosen, kind):
    assert check_target(output, chosen) == kind


@pytest.mark.parametrize(
    ("output", "chosen", "words"),
    [
        ("", None, "--output is missing"),
        ("report.pdf", None, "its ending is none of .html"),
        ("report.html", "htm", "--format htm: there is no such format. Did you mean: html?"),
        (".", "html", "is a folder; --format html needs a file"),
        (__file__, "figures", "is a file; --format figures needs a folder"),
    ],
)
def test_what_is_refused(output, chosen, words):
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        check_target(output, chosen)


def test_missing_folders_are_made(report, tmp_path):
    (path,) = write(report, tmp_path / "new" / "folder" / "report.md", "markdown")
    assert path.read_text().startswith("# Runs compared\n")


def test_an_output_below_a_file_is_refused(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--output .*report.md cannot be written"):
        write(report, tmp_path / "file" / "report.md", "markdown")


@pytest.mark.parametrize("kind", ["html", "markdown", "latex"])
def test_equal_runs_give_equal_bytes(report, tmp_path, kind):
    first, second = (write(report, tmp_path / name, kind)[0].read_bytes() for name in ("first", "second"))
    assert first == second
