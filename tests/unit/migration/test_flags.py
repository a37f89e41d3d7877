"""Flags as words, and their values."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.migration.flags import Given, given_flags


def test_both_spellings_and_switches():
    flags, stray = given_flags(["--a=1", "--b-c", "2", "--on", "--d=", "word", "--seed", "-1", "...", "--x=a=b"])
    assert [(flag.name, flag.text) for flag in flags] == [
        ("a", "1"),
        ("b_c", "2"),
        ("on", None),
        ("d", ""),
        ("seed", "-1"),
        ("x", "a=b"),
    ]
    assert [flag.spelled for flag in flags][:3] == ["--a=1", "--b-c 2", "--on"]
    assert stray == ["word", "..."]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1e-3", float, 1e-3),
        ("20000", int, 20_000),
        (None, bool, True),
        ("False", bool, False),
        ("true", bool, True),
        ("None", float, None),
        ("SST2", str, "SST2"),
    ],
)
def test_values(text, kind, value):
    assert Given("x", text, f"--x={text}").value(kind) == value


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("fast", float, "a number"),
        ("2.5", int, "a whole number"),
        ("maybe", bool, "True or False"),
        (None, int, "nothing"),
    ],
)
def test_a_value_of_another_type_is_named(text, kind, words):
    with pytest.raises(UsageError, match=words) as caught:
        Given("max_steps", text, f"--max_steps={text}").value(kind)
    assert "--max_steps" in str(caught.value)
