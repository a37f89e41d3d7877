from __future__ import annotations

import sys

import pytest

from foretune.errors import UsageError
from foretune.evaluation import load_function

FILE = """
from dataclasses import dataclass

@dataclass
class Weights:
    length: float = 2.0

def reward(texts, examples):
    return [Weights().length * len(text) for text in texts]

SCALE = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text(FILE)
    return path


def test_function_of_a_file(file):
    assert load_function(f"{file}:reward", option="--objective")(["ab"], [{}]) == [4.0]
    assert "rewards" not in sys.modules


def test_function_of_a_module():
    import statistics

    assert load_function("statistics:mean", option="--objective") is statistics.mean


@pytest.mark.parametrize("value", ["rewards", "rewards:", ":reward", ""])
def test_other_forms_are_refused(value):
    with pytest.raises(UsageError, match=r"expected package\.module:function or path/to/file\.py:function"):
        load_function(value, option="--objective")


def test_missing_things_are_named(file):
    for value, message in {
        "no_such_package.part:f": "cannot import 'no_such_package.part': ModuleNotFoundError: No module named "
        "'no_such_package'. A file is named by its path: no_such_package/part.py:function.",
        "statistics.part:f": "cannot import 'statistics.part': ModuleNotFoundError: ",
        f"{file.parent}/other.py:f": f"there is no file '{file.parent}/other.py'.",
        f"{file}:rewards": f"there is no 'rewards' in {file}. Did you mean: reward? Available: Weights, dataclass, ",
        f"{file}:SCALE": "'SCALE' is 3; it should be a function.",
    }.items():
        with pytest.raises(UsageError) as caught:
            load_function(value, option="--objective")
        assert str(caught.value).startswith(f"--objective {value}: {message}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'."),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise ValueError('first line\\nsecond')", "ValueError: first line second."),
    ],
)
def test_file_that_fails(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_function(f"{path}:f", option="--objective")
    assert str(caught.value).startswith(f"--objective {path}:f: running '{path}' failed: {message}")
    assert "\n" not in str(caught.value)
    assert str(path) not in sys.modules


def test_file_without_a_function(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(UsageError, match=r"there is no 'f' in .*empty\.py\. It has no function\."):
        load_function(f"{path}:f", option="--objective")
