"""The code of docs/add-a-method.md does what the page says, in a process of its own (registries are global)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add-a-method.md").read_text()
METHOD, PART = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

USE_OF_THE_METHOD = """
import sys
import foretune, lozo_adam
from foretune.cli.main import main
from foretune.methods import METHODS, make_method
from toys import Net, Regression

assert "lozo_adam" in METHODS
assert main(["methods", "lozo_adam"]) == 0
recipe = METHODS.get("lozo_adam")
for seed in (0, 1, 2):
    model = Regression()
    first = model().item()
    optimizer = foretune.LOZOAdam(model, **recipe.toy.options, seed=seed)
    for _ in range(recipe.toy.num_steps):
        optimizer.step(model)
    assert model().item() < 0.01 * first
net = Net()
optimizer = foretune.LOZOAdam(net, rank=4)
optimizer.step(net)
matrices = sum(t.matrix_shape[0] * 4 for t in optimizer.trainables if t.matrix_shape)
vectors = sum(t.parameter.numel() for t in optimizer.trainables if not t.matrix_shape)
assert optimizer.state_bytes == 2 * 4 * (matrices + vectors)
try:
    foretune.LOZOAdam(net, ranks=4)
except foretune.errors.UsageError as error:
    assert "Did you mean: rank" in str(error)
"""

USE_OF_THE_PART = """
import foretune
from unit_step import UnitStep
from toys import Regression

for space in (foretune.Identity(), foretune.LowRank(rank=2)):
    model = Regression()
    first = model().item()
    optimizer = foretune.Optimizer(model, space=space, update=UnitStep(), estimator=foretune.TwoSided(), lr=0.03)
    for _ in range(300):
        optimizer.step(model)
    assert model().item() < 0.1 * first
    assert optimizer.state_bytes == 0
"""

EXPRESSION = """
import foretune
from toys import Net

model = Net()
optimizer = {}
optimizer.step(model)
assert len(optimizer.tensor_states[optimizer.trainables[0]].tensors) == 2
"""


def run(code: str, folder: Path) -> None:
    path = [str(folder), str(ROOT / "tests")]
    program = f"import sys; sys.path[:0] = {path!r}\n{code}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)


def test_the_method_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "lozo_adam.py").write_text(METHOD)
    run(USE_OF_THE_METHOD, tmp_path)


def test_the_part_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "unit_step.py").write_text(PART)
    run(USE_OF_THE_PART, tmp_path)


def test_the_expression_of_the_page(tmp_path: Path) -> None:
    expression = next(line.strip() for line in PAGE.splitlines() if line.startswith("    foretune.Optimizer("))
    run(EXPRESSION.format(expression), tmp_path)


@pytest.mark.parametrize("words", re.findall(r"`(--method lozo --update adam)`", PAGE))
def test_the_options_of_the_page(words: str) -> None:
    from foretune.cli.train import parse
    from foretune.methods import make_method
    from foretune.updates import Adam

    config = parse([*words.split(), "--model", "m", "--task", "sst2", "--output", "o"])
    assert isinstance(make_method("lozo", config.method_options).parts().update, Adam)
