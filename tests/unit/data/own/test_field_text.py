from __future__ import annotations

import re

import pytest

from foretune.data.own.field_text import FieldText
from foretune.errors import UsageError


def test_fields_are_written_and_doubled_braces_are_braces():
    text = FieldText.parse("{{{a b}}} is {year}. {a b}!", "--prompt")
    assert text.fields == ("a b", "year")
    assert text.write({"a b": "x{y}", "year": 1932, "more": 1}) == "{x{y}} is 1932. x{y}!"
    assert text.ending == "!"
    assert FieldText.parse("{a}", "--prompt").ending == ""
    assert FieldText.parse("", "--prompt").write({}) == ""


def test_a_list_gives_a_text_for_each_element():
    text = FieldText.parse(" {answer} of {topic}", "--completion")
    assert text.write_each({"answer": ["one", "two"], "topic": "x"}) == (" one of x", " two of x")
    assert text.write_each({"answer": "one", "topic": "x"}) == (" one of x",)
    with pytest.raises(ValueError, match="fields 'answer' and 'topic' both hold lists"):
        text.write_each({"answer": ["one"], "topic": ["x"]})
    with pytest.raises(ValueError, match="field 'answer' has 3 in its list"):
        text.write_each({"answer": ["one", 3], "topic": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "found {}."),
        ("{text:>3}", "found {text:>3}."),
        ("{text!r}", "found {text!r}."),
        ("{text", "--prompt '{text': expected '}' before end of string."),
        ("text}", "--prompt 'text}': Single '}' encountered in format string."),
    ],
)
def test_bad_braces_are_explained(text, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        FieldText.parse(text, "--prompt")
    assert str(caught.value).endswith("Braces of the text itself are doubled: {{ and }}.")
