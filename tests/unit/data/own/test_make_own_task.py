"""The tasks that specs make: golden prompts, options and answers, and what rows are refused."""

from __future__ import annotations

import json
import re

import pytest

from foretune.data import load_task_data
from foretune.data.own import make_own_task, make_spec, read_task_file
from foretune.errors import UsageError
from foretune.tasks import ClassificationTask, GenerationTask, MultipleChoiceTask

PROMPT = "{text} It was {label}"


def task_of(tmp_path, *rows, name="train.jsonl", **settings):
    """A task of these rows; each is read and checked once by `examples_of`."""
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_own_task(make_spec({"data": str(path), **settings}))


def examples_of(task, **counts):
    data = load_task_data(task, **({"num_train": 0, "num_dev": 0, "num_eval": 100} | counts))
    rows = sorted(data.evaluation, key=lambda row: row.name)
    return [task.example(row.row, task.template(), row.name) for row in rows]


def refuses(task, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        load_task_data(task)
    assert "\n" not in str(caught.value)


def test_label_words_with_labels_of_any_type(tmp_path):
    rows = [{"text": "fine ", "label": 1}, {"text": "dull", "label": "0"}]
    task = task_of(tmp_path, *rows, prompt=PROMPT, label_words=["0=terrible", "1=great"])
    assert isinstance(task, ClassificationTask)
    first, second = examples_of(task)
    assert (first.prompt, first.candidates, first.correct) == ("fine  It was", (" terrible", " great"), (1,))
    assert (second.prompt, second.correct, second.name) == ("dull It was", (0,), "train train row 1")
    assert task.demonstration(rows[0], task.template()) == "fine  It was great"
    calibration = task.calibration(rows[0], task.template())
    assert (calibration.prompt, calibration.candidates) == ("It was", (" terrible", " great"))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("{a}\nTrue?\n{label}", ("x\nTrue?\n", ("No", "Yes"))),
        ("{a}\nAnswer: {label}", ("x\nAnswer:", (" No", " Yes"))),
        ('"{a}":{label}', ('"x":', ("No", "Yes"))),
    ],
)
def test_the_label_word_stands_after_a_space_a_newline_or_nothing(tmp_path, prompt, expected):
    task = task_of(tmp_path, {"a": "x", "gold": True}, prompt=prompt, label_words=["false=No", "true=Yes"],
                   label_field="gold")  # fmt: skip
    (example,) = examples_of(task)
    assert (example.prompt, example.candidates) == expected
    assert example.correct == (1,)


def test_candidates_are_fields_or_the_elements_of_one(tmp_path):
    row = {"p": "It rained", "choice1": "he ran.", "choice2": "she sang.", "label": "B"}
    named = task_of(tmp_path, row, prompt="{p} so {label}", candidates=["A={choice1}", "B={choice2}"])
    assert isinstance(named, MultipleChoiceTask)
    (example,) = examples_of(named)
    assert (example.prompt, example.candidates, example.correct) == ("It rained so", (" he ran.", " she sang."), (1,))
    rows = [{"p": "It rained", "ends": ["he ran.", "she sang.", "it fell."], "label": 2}]
    (example,) = examples_of(task_of(tmp_path, *rows, prompt="{p} so {label}", candidates=["{ends}"]))
    assert (example.candidates, example.correct) == ((" he ran.", " she sang.", " it fell."), (2,))


def test_completions_are_short_answers_or_long_ones(tmp_path):
    row = {"q": "When?", "answer": ["1811", "in 1811"]}
    settings = {"prompt": "Q: {q}\nA:", "completion": " {answer}"}
    task = task_of(tmp_path, row, **settings)
    assert isinstance(task, GenerationTask)
    (example,) = examples_of(task)
    assert (example.prompt, example.candidates, example.answers) == ("Q: When?\nA:", (" 1811",), (" 1811", " in 1811"))
    assert example.ends_text
    assert (task.metric, task.stops_at_newline, task.max_new_tokens) == ("f1", True, 50)
    long = task_of(tmp_path, row, **settings, metric="rouge_l", max_new_tokens=7)
    assert (long.metric, long.stops_at_newline, long.max_new_tokens) == ("rouge_l", False, 7)
    lines = task_of(tmp_path, row, prompt="Q: {q}\nA:", completion=" {answer}\n")
    (example,) = examples_of(lines)
    assert (example.candidates, example.ends_text) == ((" 1811\n",), False)


def test_plain_text_is_learned_whole_and_nothing_is_generated(tmp_path):
    task = task_of(tmp_path, {"text": "Once.\n\nTwice."}, completion="{text}")
    (example,) = examples_of(task)
    assert (example.prompt, example.candidates, example.answers) == ("", ("Once.\n\nTwice.",), ())
    assert example.ends_text
    assert (task.objective, task.metric, task.max_new_tokens) == ("lm", "loss", 0)


def test_csv_rows_and_a_task_file_relative_to_itself(tmp_path):
    (tmp_path / "train.csv").write_text('review,stars\n"good, really",5\nbad,1\n')
    (tmp_path / "test.csv").write_text("review,stars\nso so,5\n")
    (tmp_path / "stars.yaml").write_text(
        "data: train.csv\neval_data: test.csv\nprompt: '{review} Stars: {label}'\nlabel_field: stars\n"
        "label_words: {1: bad, 5: good}\n"
    )
    task = make_own_task(read_task_file(tmp_path / "stars.yaml"))
    data = load_task_data(task, num_dev=0)
    assert task.name == "stars"
    assert {row.row["review"] for row in data.train} == {"good, really", "bad"}
    assert data.eval_origin == str(tmp_path / "test.csv")
    (example,) = data.examples(data.evaluation)
    assert (example.prompt, example.correct) == ("so so Stars:", (1,))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"txt": "x", "label": 0},
            "field 'text' is missing; task 'train' needs 'text', 'label', found 'txt', 'label'.",
        ),
        ({"text": "x", "label": "posit"}, "'label': there is no label 'posit'. Did you mean: positive?"),
        ({"text": "x", "label": 0.5}, "field 'label' is 0.5; it should be a string or an integer or true or false."),
        ({"text": None, "label": "positive"}, "field 'text' is None; it should be a string or an integer or a number."),
        ({"text": " ", "label": "positive"}, "field 'text' is empty, so the prompt says nothing of the row."),
    ],
)
def test_bad_rows_are_refused_with_line_and_field(tmp_path, row, message):
    good = {"text": "x", "label": "negative"}
    task = task_of(tmp_path, good, row, prompt=PROMPT, label_words=["negative=bad", "positive=good"])
    refuses(task, f"'{tmp_path / 'train.jsonl'}', line 2: ")
    refuses(task, message)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"ends": ["a"], "label": 0}, "field 'ends' gives 1 candidates; expected at least two."),
        ({"ends": ["a", ""], "label": 0}, "candidate '1' is empty; its fields: 'ends'."),
        ({"ends": ["a", "b"], "label": 2}, "field 'label': there is no label '2'. Available: 0, 1."),
        ({"ends": ["a", 1], "label": 0}, "field 'ends' has 1 in its list; it should hold strings."),
    ],
)
def test_bad_candidates_are_refused(tmp_path, row, message):
    task = task_of(tmp_path, {"p": "x", **row}, prompt="{p} {label}", candidates=["{ends}"])
    refuses(task, f"line 1: {message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"q": "x", "a": ""}, "field 'a' is empty, so there is nothing to learn."),
        ({"q": "x", "a": "one\ntwo"}, "field 'a' has several lines, and metric f1 reads one; set --metric to rouge_l"),
    ],
)
def test_bad_completions_are_refused(tmp_path, row, message):
    refuses(task_of(tmp_path, row, prompt="{q}", completion=" {a}"), f"line 1: {message}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "{text} It was"}, "--prompt '{text} It was' has no {label}"),
        ({"prompt": None}, "--prompt is missing"),
        ({"prompt": "{text} {label}."}, "{label} should be there once, at the end"),
        ({"prompt": "{label} {text} {label}"}, "{label} should be there once, at the end"),
        ({"prompt": "It was {label}"}, "names no field of the row"),
        ({"prompt": "{y} {label}", "label_field": "y"}, "shows the answer: {y} is the field of the label"),
        ({"label_words": ["0=a"]}, "--label-words: 1 label word; expected at least two"),
        ({"label_words": ["0={a}", "1={b}"]}, "texts with fields, here {a}, are given to --candidates"),
        ({"label_words": None, "candidates": ["a", "b"]}, "--candidates: no candidate names a field"),
        ({"prompt": "{e} {label}", "label_words": None, "candidates": ["{e}"]}, "{e} holds a list of candidates"),
        ({"label_words": None, "completion": "x"}, "--completion 'x' names no field"),
        ({"label_words": None, "prompt": "Q:", "completion": "{x}"}, "--prompt 'Q:' names no field"),
        ({"label_words": None, "prompt": "{x}", "completion": "{x}"}, "--prompt '{x}' shows the answer: {x}."),
        ({"label_words": None, "prompt": None, "completion": "{x}", "max_new_tokens": 3}, "nothing is generated"),
        ({"data_config": "c"}, "--data-config would have no effect: --data is a file"),
        ({"eval_data": "{same}"}, "is the training file; leave it out"),
        ({"eval_data": "gone.csv"}, "--eval-data gone.csv: there is no such file."),
    ],
)
def test_settings_that_make_no_task_are_refused_by_name(tmp_path, settings, message):
    if settings.get("eval_data") == "{same}":
        settings = {"eval_data": str(tmp_path / "train.jsonl")}
    with pytest.raises(UsageError, match=re.escape(message)):
        task_of(tmp_path, {"text": "x"}, **{"prompt": PROMPT, "label_words": ["0=a", "1=b"], **settings})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("gone.csv", "--data gone.csv: there is no such file."),
        ("rows/gone.txt", "--data rows/gone.txt: there is no such file."),
        ("{folder}", "is a folder; give a file of rows in it."),
        ("{folder}/a.txt", "suffix '.txt' is of a format that is not read; expected .csv, .jsonl, .parquet."),
    ],
)
def test_data_that_is_no_file_of_rows_is_refused(tmp_path, data, message):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=re.escape(message)):
        make_own_task(make_spec({"data": data.replace("{folder}", str(tmp_path)), "completion": "{text}"}))


def test_an_empty_file_has_no_rows(tmp_path):
    refuses(task_of(tmp_path, completion="{text}"), f"'{tmp_path / 'train.jsonl'}' has no rows.")


def test_hub_rows_never_come_from_the_data_folder(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, name, *, revision, split):
        asked.append((path, name, revision, split))
        return datasets.Dataset.from_list([{"text": f"{split} {index}"} for index in range(10)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("FORETUNE_DATA", str(tmp_path))
    spec = make_spec({"data": "org/name@v2", "data_config": "en", "eval_data": "test", "completion": "{text}"})
    data = load_task_data(make_own_task(spec))
    assert asked == [("org/name", "en", "v2", "train"), ("org/name", "en", "v2", "test")]
    assert (len(data.train), len(data.dev), len(data.evaluation)) == (8, 2, 10)
    asked.clear()
    data = load_task_data(make_own_task(make_spec({"data": "org/name", "completion": "{text}"})))
    assert asked == [("org/name", None, None, "train")]
    assert (len(data.train), len(data.dev), len(data.evaluation)) == (7, 1, 2)


def test_a_dataset_that_is_not_there_is_named(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise FileNotFoundError("no such dataset\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = make_own_task(make_spec({"data": "org/missing", "completion": "{text}"}))
    refuses(task, "Could not load the rows from the hub: org/missing: no such dataset.")


def test_rows_are_parted_without_overlap_and_tests_do_not_depend_on_training(tmp_path):
    task = task_of(tmp_path, *({"text": f"row {index}"} for index in range(50)), completion="{text}")
    data = load_task_data(task)
    parts = [{row.row["text"] for row in part} for part in (data.train, data.dev, data.evaluation)]
    assert [len(part) for part in parts] == [32, 8, 10]
    assert len(set.union(*parts)) == 50
    alone = load_task_data(task, num_train=0, num_dev=0)
    assert alone.evaluation == data.evaluation
    assert load_task_data(task, num_train=40, num_dev=0).evaluation == data.evaluation
    assert len(load_task_data(task, num_train=1000, num_dev=5, num_eval=20).train) == 25
    with pytest.raises(UsageError, match="50 rows, of which 30 are test rows"):
        load_task_data(task, num_dev=20, num_eval=30)
