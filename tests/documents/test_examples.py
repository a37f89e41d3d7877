"""Every example runs offline as it stands, and lowers the figure that it prints."""

from __future__ import annotations

import re
import runpy

import pytest
import torch

from pages import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_lowers_what_it_prints(example, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with torch.random.fork_rng():
        runpy.run_path(str(example))
    before, after = map(float, re.search(r"([\d.]+) -> ([\d.]+)", capsys.readouterr().out).groups())
    assert after < before / 2


def test_the_list_of_examples_has_each_of_them():
    listed = re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text())
    assert sorted(listed) == [path.name for path in EXAMPLES]
