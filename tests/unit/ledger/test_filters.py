"""Conditions and names."""

from __future__ import annotations

import math

import pytest

from foretune.errors import UsageError
from foretune.ledger import Condition, look_up, select


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("method=mezo", ("method", "=", "mezo")),
        (" lr <= 1e-4 ", ("lr", "<=", "1e-4")),
        ("final.accuracy!=0.5", ("final.accuracy", "!=", "0.5")),
        ("error~no = memory", ("error", "~", "no = memory")),
        ("zo-eps==1e-3", ("zo-eps", "==", "1e-3")),
        ("eval/loss<2", ("eval/loss", "<", "2")),
        ("suite=", ("suite", "=", "")),
    ],
)
def test_a_condition_is_read(text, parts):
    condition = Condition.parse(text)
    assert (condition.name, condition.operator, condition.value) == parts


@pytest.mark.parametrize("text", ["", "method", "=mezo", "<3"])
def test_another_form_is_refused(text):
    with pytest.raises(UsageError, match="is no condition"):
        Condition.parse(text)


VALUES_TRUE = [
    "method=mezo",
    "method!=lozo",
    "lr<=1e-6",
    "lr=0.000001",
    "--zo-eps>1e-4",
    "config.method.lr<1",
    "metrics.final.accuracy>=0.5",
    "steps=100",
    "started>=2026-01-31",
    "started<2026-01-31T12:00:01+00:00",
    "name~MEZO",
    "error=none",
    "method!=none",
    "absent!=3",
]
VALUES_FALSE = ["method=lozo", "lr>1e-6", "error!=none", "error<3", "method=none", "absent=3", "started<2026-01-31"]


@pytest.mark.parametrize(("text", "expected"), [(t, True) for t in VALUES_TRUE] + [(t, False) for t in VALUES_FALSE])
def test_a_condition_holds(make_run, text, expected):
    assert Condition.parse(text).holds(make_run().values()) is expected


def test_switches_and_lists(make_run):
    run = make_run(config={"align": True, "words": ["a", "b"]})
    assert select([run], ["align=true", "words=a b"]) == [run]
    assert select([run], ["align=false"]) == []


@pytest.mark.parametrize(
    ("text", "kind"), [("lr<small", "a number"), ("started>soon", "a date"), ("align=yes", "true or false")]
)
def test_a_value_of_another_kind_is_refused(make_run, text, kind):
    run = make_run(config={"align": False, "method": {"lr": 1e-6}})
    with pytest.raises(UsageError, match=rf"{text}: .* is {kind}"):
        select([run], [text])


def test_a_name_that_no_run_has_is_refused_and_one_that_some_have_is_not(make_run):
    runs = [make_run(), make_run(config={"rank": 2})]
    assert select(runs, ["rank=2"]) == runs[1:]
    with pytest.raises(UsageError, match=r"--where final.accurcy: no run has it\. Did you mean: final\.accuracy"):
        select(runs, ["final.accurcy>0"])
    with pytest.raises(UsageError, match="--sort"):
        select(runs, sort="speed")
    assert select([], ["anything=1"], sort="anything") == []


def test_fields_win_over_settings_and_the_whole_name_over_the_last():
    values = {"steps": 1, "config.steps": 2, "config.rank": 3, "config.method.rank": 4, "config.tuning.r": 5}
    assert [look_up(values, name) for name in ("steps", "config.steps", "rank", "r")] == [1, 2, 3, 5]
    assert look_up(values, "absent") is None


def test_sorting_puts_what_is_missing_first_and_keeps_the_order_of_equals(make_run):
    figures = [0.5, math.nan, 0.9, 0.5]
    runs = [make_run(accuracy=figure) for figure in figures] + [make_run(metrics={})]
    assert select(runs, sort="final.accuracy") == [runs[1], runs[4], runs[0], runs[3], runs[2]]
    assert select(runs, sort="started") == runs
