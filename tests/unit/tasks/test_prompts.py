from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.tasks import Example, get_task
from foretune.tasks.prompts import build_example, split_options, strip_text


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("  two spaces  ", "two spaces"),
        ("ends in a newline\n", "ends in a newline\n"),
        (" \n starts with white space", "starts with white space"),
        ("newline then space\n ", "newline then space\n"),
        (" \n ", ""),
    ],
)
def test_strip_text_removes_spaces_at_both_ends_and_white_space_in_front(text, stripped):
    assert strip_text(text) == stripped


def test_option_carries_its_space_after_a_word_and_none_after_a_newline():
    assert split_options("It was ", ["It was great"]) == ("It was", (" great",))
    assert split_options("Yes or No?\n", ["Yes or No?\nYes"]) == ("Yes or No?\n", ("Yes",))


def test_full_text_that_does_not_continue_the_prompt_is_refused():
    with pytest.raises(UsageError, match=r"must start with its prompt 'It was', found 'It is great'"):
        split_options("It was", ["It is great"])


def test_build_example_keeps_the_name_out_of_equality():
    task = get_task("sst2")
    row = {"sentence": " fine ", "label": 0}
    example = build_example(task, task.template("v0"), row, name="sst2 train row 3")
    assert example == Example(prompt="fine It was", candidates=(" terrible", " great"), correct=(0,))
    assert example.name == "sst2 train row 3"
