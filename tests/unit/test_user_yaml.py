"""YAML that a user wrote."""

from __future__ import annotations

import re

import pytest

from foretune.errors import UsageError
from foretune.user_yaml import kind_of, parse_yaml, read_yaml


def test_scalars_are_what_yaml_says_or_stay_text():
    assert parse_yaml("a: 01\nb: No\nc: {d: 1.5}\n", "f") == {"a": 1, "b": False, "c": {"d": 1.5}}
    assert parse_yaml("a: 01\nb: No\nc: {d: 1.5}\n", "f", as_text=True) == {"a": "01", "b": "No", "c": {"d": "1.5"}}


def test_a_merged_mapping_may_be_overridden():
    assert parse_yaml("x: &shared {a: 1, b: 2}\ny: {<<: *shared, a: 3}\n", "f")["y"] == {"a": 3, "b": 2}


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f: not YAML: line 3, column 1: 'a' is there twice."),
        ("x:\n  a: 1\n  a: 1\n", "f: not YAML: line 3, column 3: 'a' is there twice."),
        (
            "a:\n\tb: 1\n",
            "f: not YAML: line 2, column 1: found character '\\t' that cannot start any token. Indent with",
        ),
        ("a: [1\n", "f: not YAML: line 2, column 1: expected ',' or ']'"),
        ("a: \x00", "f: not YAML: unacceptable character #x0000"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(text, message, as_text):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        parse_yaml(text, "f", as_text=as_text)
    assert "\n" not in str(caught.value)


def test_code_is_not_run():
    with pytest.raises(UsageError, match="could not determine a constructor"):
        parse_yaml("!!python/object/apply:os.getcwd []", "f")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"^f cannot be read: No such file or directory\.$"):
        read_yaml(tmp_path / "absent", "f")
    (tmp_path / "latin").write_bytes(b"a: \xe9\n")
    with pytest.raises(UsageError, match=r"^f is not UTF-8 text \(invalid continuation byte at byte 3\)\.$"):
        read_yaml(tmp_path / "latin", "f")


def test_what_was_found_in_a_word():
    assert [kind_of(content) for content in (None, [], {}, "a", 3)] == [
        "nothing", "a list", "a mapping", "a text", "3"
    ]  # fmt: skip
