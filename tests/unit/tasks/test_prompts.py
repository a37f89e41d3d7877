from __future__ import annotations

import pytest

from foretune.tasks import Example, get_task
from foretune.tasks.prompts import strip_text, with_demonstrations, write_options


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
    assert write_options("It was ", ["great"]) == ("It was", (" great",))
    assert write_options("It was", [" great"]) == ("It was", (" great",))
    assert write_options("Yes or No?\n", ["Yes"]) == ("Yes or No?\n", ("Yes",))
    assert write_options("", [" Yes"]) == ("", ("Yes",))


def test_example_keeps_the_name_out_of_equality():
    task = get_task("sst2")
    row = {"sentence": " fine ", "label": 0}
    example = task.example(row, task.template("v0"), name="sst2 train row 3")
    assert example == Example(prompt="fine It was", candidates=(" terrible", " great"), correct=(0,))
    assert example.name == "sst2 train row 3"


def test_demonstrations_stand_in_front_separated_by_two_newlines():
    example = Example(prompt="It was", candidates=(" bad", " good"), correct=(1,))
    shown = with_demonstrations(example, [" one It was bad\n", "two It was good"])
    assert shown.prompt == "one It was bad\n\ntwo It was good\n\nIt was"
    assert shown.candidates == example.candidates
    assert with_demonstrations(example, []) == example


def test_demonstrations_move_the_span_that_is_cut_first():
    example = Example(prompt="a context b", candidates=(" x",), correct=(0,), shortened=(2, 9))
    shown = with_demonstrations(example, ["before"])
    assert shown.prompt[slice(*shown.shortened)] == "context"


def test_a_demonstration_is_the_row_with_its_right_answer():
    task = get_task("sst2")
    assert task.demonstration({"sentence": "fine ", "label": 1}, task.template()) == "fine It was great"
