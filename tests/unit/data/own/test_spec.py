from __future__ import annotations

import re

import pytest

from foretune.data.own.spec import make_spec, read_task_file
from foretune.errors import UsageError

WORDS = {"data": "d.csv", "prompt": "{text} It was {label}", "label_words": ["0=terrible", "1=great"]}


def test_words_may_be_named_or_numbered():
    named = make_spec(WORDS).label_words
    assert named == {"0": "terrible", "1": "great"}
    assert make_spec(WORDS | {"label_words": ["terrible", "great"]}).label_words == named
    assert make_spec(WORDS | {"label_words": {0: "terrible", 1: "great"}}).label_words == named
    assert make_spec(WORDS | {"label_words": {True: "Yes", False: "No"}}).label_words == {"true": "Yes", "false": "No"}
    assert make_spec(WORDS | {"label_words": ["a= x = y", "b=z"]}).label_words == {"a": " x = y", "b": "z"}


def test_a_task_file_is_text_throughout(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("data: rows.csv\nlabel-words: {0: No, 1: Yes, null: 01}\nprompt: |-\n  {text}\n  {label}\n")
    spec = read_task_file(path)
    assert spec.label_words == {"0": "No", "1": "Yes", "null": "01"}
    assert spec.prompt == "{text}\n{label}"
    assert spec.option("prompt") == f"'{path}', prompt"
    path.write_text("data: rows.csv\ncompletion: '{text}'\nprompt: '{q}'\nmax_new_tokens: 7\n")
    assert read_task_file(path).max_new_tokens == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "--data is missing"),
        ({"label_words": None}, "--data d.csv: say what the answer is, with --label-words, --candidates, --completion"),
        ({"completion": "{a}"}, "--label-words and --completion are two kinds of answer"),
        ({"metric": "f1"}, "--metric would have no effect with --label-words"),
        ({"label_words": ["0=a", "b"]}, "--label-words: 'b' has no label in front"),
        ({"label_words": ["0=a", "0=b"]}, "--label-words: label '0' is given twice, with 'a' and 'b'."),
        ({"label_words": ["0=a", "1=a "]}, "--label-words: labels '0' and '1' have the same text 'a'"),
        ({"label_words": ["0=a", "1="]}, "--label-words: label '1' has ''; it should have a text."),
        ({"label_words": {"0": ["a"]}}, "--label-words: label '0' has ['a']; it should have a text."),
        (
            {"label_words": None, "prompt": None, "messages": "m", "label_field": "x"},
            "--label-field would have no effect",
        ),
        ({"label_words": None, "messages": "m"}, "--prompt would have no effect with --messages"),
    ],
)
def test_what_makes_no_task_is_refused(change, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        make_spec(WORDS | change)


@pytest.mark.parametrize("count", [0, "many"])
def test_tokens_of_a_text_are_counted(count):
    with pytest.raises(UsageError, match=r"--max-new-tokens must be"):
        make_spec({"data": "d.csv", "completion": "{a}", "max_new_tokens": count})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected settings (name: value), found nothing."),
        (b"- a\n", "expected settings (name: value), found a list."),
        (b"data: [\n", "not YAML: "),
        (b"data: a\xff\n", "is not UTF-8 text"),
        (b"data: a.csv\npromt: x\n", "there is no setting 'promt'. Did you mean: prompt?"),
        (b"data: a.csv\nprompt: [a]\n", "prompt is ['a']; it should be text."),
        (b"data: a.csv\nlabel_words:\n  0: a\n  0: b\n", "'0' is there twice"),
        (b"prompt: x\n", "data is missing"),
    ],
)
def test_a_bad_task_file_is_one_error_that_names_it(tmp_path, content, message):
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        read_task_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
