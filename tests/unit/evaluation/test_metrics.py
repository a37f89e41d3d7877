from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.evaluation import METRICS, CandidateMetric, TextMetric, accuracy, find_metric


def test_accuracy_is_a_fraction_and_any_right_answer_counts():
    rows = [0, 1, 2, 1], [(0,), (0,), (1, 2), {1}]
    assert accuracy(*rows) == 0.75
    assert METRICS["accuracy"](*rows) == 0.75
    assert METRICS["accuracy"].score_rows(*rows) == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(("predictions", "correct"), [([], []), ([1], [(1,), (0,)])])
def test_metric_of_nothing_or_of_unequal_lengths_is_refused(predictions, correct):
    with pytest.raises(ValueError, match="undefined"):
        accuracy(predictions, correct)
    with pytest.raises(ValueError, match="undefined"):
        METRICS["f1"]([str(p) for p in predictions], [{"answers": ["1"]} for _ in correct])


@pytest.mark.parametrize(("name", "mean"), [("f1", (2 / 3 + 1) / 2), ("exact_match", 0.5), ("rouge_l", 2 / 3)])
def test_text_metrics_are_means_over_rows_of_the_best_answer(name, mean):
    examples = [{"prompt": "When?", "answers": ["1811"]}, {"prompt": "Who?", "answers": ["dog", "cat"]}]
    assert METRICS[name](["in 1811", "The cat"], examples) == pytest.approx(mean)


def test_names_are_those_of_the_table():
    assert all(metric.name == name for name, metric in METRICS.items())
    kinds = {name: type(metric) for name, metric in METRICS.items()}
    assert kinds == {"accuracy": CandidateMetric} | dict.fromkeys(("f1", "exact_match", "rouge_l"), TextMetric)


def test_unknown_name_suggests():
    with pytest.raises(UsageError, match=r"^--metric rouge: there is no such metric\. Did you mean: rouge_l\?"):
        find_metric("rouge", option="--metric")
    assert find_metric("f1", option="--metric") is METRICS["f1"]


def metric_of(tmp_path, returned):
    path = tmp_path / "own.py"
    path.write_text(f"import numpy as np\nimport torch\ndef reward(texts, examples):\n    return {returned}\n")
    return find_metric(f"{path}:reward", option="--objective"), f"--objective {path}:reward: "


@pytest.mark.parametrize(
    "returned",
    [
        "[len(text) - len(example['answers'][0]) for text, example in zip(texts, examples)]",
        "np.array([1, -3])",
        "torch.tensor([1.0, -3.0])",
        "(value for value in (True, np.float32(-3)))",
    ],
)
def test_own_function_gives_one_number_a_text(tmp_path, returned):
    metric, _ = metric_of(tmp_path, returned)
    examples = [{"prompt": "", "answers": ["ab"]}, {"prompt": "", "answers": ["abcd"]}]
    values = metric.score_rows(["abc", "d"], examples)
    assert values == [1.0, -3.0]
    assert all(type(value) is float for value in values)
    assert metric(["abc", "d"], examples) == -1.0
    assert not metric.is_fraction


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("0.5", "it returned 0.5; it should return one number for each text."),
        ("None", "it returned None; it should return one number for each text."),
        ("['good', 'bad']", "it returned ['good', 'bad']; it should return one number for each text."),
        ("[1.0]", "it returned 1 values for 2 texts."),
        ("[1.0, float('nan')]", "it returned nan for the text 'd'; values should be finite."),
        ("[float('inf'), 0]", "it returned inf for the text 'abc'; values should be finite."),
    ],
)
def test_wrong_values_are_refused(tmp_path, returned, message):
    metric, where = metric_of(tmp_path, returned)
    with pytest.raises(UsageError) as caught:
        metric(["abc", "d"], [{}, {}])
    assert str(caught.value) == where + message


def test_function_of_other_arguments_is_refused_when_it_is_named(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def reward(text):\n    return 1.0\n")
    with pytest.raises(UsageError, match=r"it is called as function\(texts, examples\), but: too many positional"):
        find_metric(f"{path}:reward", option="--objective")
