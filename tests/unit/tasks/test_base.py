from __future__ import annotations

import re

import pytest

from foretune.errors import UsageError
from foretune.tasks import HubSource, get_task, list_tasks

GOOD = {"sentence": "fine", "label": 1, "idx": 0}


def test_every_task_is_found_under_its_own_name():
    assert "sst2" in list_tasks()
    assert all(get_task(name).name == name for name in list_tasks())
    assert all(get_task(name).template() for name in list_tasks() if get_task(name).templates)


def test_unknown_task_suggests_near_misses():
    with pytest.raises(UsageError, match=r"Unknown task 'sst-2'. Did you mean: sst2"):
        get_task("sst-2")


def test_unknown_template_lists_those_there_are():
    with pytest.raises(UsageError, match=r"Task 'sst2' has no template 'v7'.*Available: v0, v1"):
        get_task("sst2").template("v7")


def test_good_row_passes():
    get_task("sst2").check_row(GOOD, "here")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "here: expected an object with 'sentence', 'label', found [1]."),
        (
            {"label": 1},
            "here: field 'sentence' is missing; task 'sst2' needs 'sentence', 'label', found 'label'.",
        ),
        ({}, "here: field 'sentence' is missing; task 'sst2' needs 'sentence', 'label', found none."),
        (GOOD | {"sentence": 3}, "here: field 'sentence' is 3; it should be a string."),
        (GOOD | {"label": "1"}, "here: field 'label' is '1'; it should be an integer."),
        (GOOD | {"label": True}, "here: field 'label' is True; it should be an integer."),
        (GOOD | {"label": 2}, "here: field 'label' is 2; task 'sst2' has labels 0 to 1."),
        (GOOD | {"label": -1}, "here: field 'label' is -1; task 'sst2' has labels 0 to 1."),
    ],
)
def test_bad_row_is_refused_with_place_and_field(row, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        get_task("sst2").check_row(row, "here")


def test_hub_source_reads_as_one_word():
    assert str(HubSource("org/set")) == "org/set"
    assert str(HubSource("org/set", "part", "v2")) == "org/set (part)@v2"
