"""The published numbers, and which of them stand beside a cell."""

from __future__ import annotations

import pytest

from foretune.methods import RECIPES
from foretune.reports.choices import Cell
from foretune.reports.leaderboard import ZERO_SHOT
from foretune.reports.published import EVIDENCE, UNITS, beside, of_tasks, published


def test_every_number_has_a_source_and_evidence():
    numbers = published()
    assert len(numbers) > 900
    for number in numbers:
        assert number.source
        assert number.where
        assert number.evidence in EVIDENCE
        assert number.metric in UNITS
        assert number.metric != "score" or 0 < number.value < 100
        assert number.deviation is None or 0 <= number.deviation < 20


def test_names_of_methods_are_ours():
    known = {*RECIPES, ZERO_SHOT, "linear_probe", "in context", None}
    assert {number.method for number in published()} <= known


@pytest.mark.parametrize(
    ("cell", "first"),
    [
        (Cell("opt-13b", "sst2", "full", "mezo"), ("MeZO", "91.4", "opt-13b")),
        (Cell("roberta-large", "sst2 (k=16)", "full", "mezo"), ("MeZO", "90.5 ± 1.2", "roberta-large")),
        (Cell("some-model", "rte", "lora", "subzero"), ("SubZero", "75.5", "opt-13b")),
        (Cell("opt-13b", "rte", "none", ZERO_SHOT), ("MeZO", "59.6", "opt-13b")),
    ],
)
def test_what_stands_beside(cell, first):
    found = beside(cell)[0]
    assert (found.source, found.text, found.model) == first


def test_nothing_stands_beside_what_nobody_published():
    assert beside(Cell("opt-13b", "sst2", "full", "mezo, space masked")) == []


def test_other_models_are_left_out_where_the_model_itself_was_published():
    assert {number.model for number in beside(Cell("opt-30b", "rte", "full", "mezo"))} == {"opt-30b"}


def test_all_numbers_of_a_task_are_at_hand():
    assert {number.task for number in of_tasks(["wsc", "sst2 (k=16)"])} == {"wsc", "sst2"}
