"""Every table in results is one that its benchmark reads back, and figures are appended under one header."""

import importlib

import pytest

from foretune.runs import memory_bench, step_row


def test_rows_are_appended_under_one_header(tmp_path):
    from ledger import Ledger

    from foretune.runs.timing import Spread

    path = tmp_path / "new" / "speed.csv"
    for value in (1.5, 2.5):
        ledger = Ledger(shape="tiny", dtype="float32")
        ledger.add("mezo", "step", Spread(value, 1.0, 3.0, 7), "s", batch=16, tokens="48")
        ledger.append_to(path)

    header, *rows = path.read_text().splitlines()
    assert header.startswith("date,commit,dirty,machine,cores,threads,python,torch,transformers,foretune,shape,dtype")
    assert [row.split(",")[-9:] for row in rows] == [
        ["16", "48", "mezo", "step", value, "s", "1", "3", "7"] for value in ("1.5", "2.5")
    ]


@pytest.mark.parametrize("name", ["few_shot", "methods", "tasks", "evaluation", "noise", "step", "memory"])
def test_what_was_measured_can_be_read(name):
    from ledger import RESULTS, read_rows

    modules = {"few_shot": "compare_few_shot", "methods": "compare_methods", "tasks": "compare_tasks"}
    modules |= {"evaluation": "ledger", "noise": "noise"}
    kinds = {"step": step_row.Row, "memory": memory_bench.Row}
    kind = kinds.get(name) or importlib.import_module(modules[name]).Row
    assert read_rows(RESULTS / f"{name}.csv", kind)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("compare_few_shot", ()), ("compare_tasks", ()), ("compare_methods", ("cases",))],
)
def test_pages_are_those_of_the_rows(module, arguments, monkeypatch, tmp_path):
    script = importlib.import_module(module)
    committed = script.PAGE.read_text()
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    script.write_page(*(getattr(script, name)() for name in arguments))
    assert (tmp_path / "page.md").read_text() == committed
