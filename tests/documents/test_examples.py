"""Every example runs offline as it stands, and lowers the number that it prints."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pages import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_lowers_what_it_prints(example, tmp_path):
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=True, timeout=240, cwd=tmp_path
    )
    before, after = map(float, re.search(r"([\d.]+) -> ([\d.]+)", done.stdout).groups())
    assert after < before / 2


def test_the_list_of_examples_has_each_of_them():
    listed = re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text())
    assert sorted(listed) == [path.name for path in EXAMPLES]
