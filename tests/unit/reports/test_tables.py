"""Tables in Markdown and LaTeX."""

from __future__ import annotations

import re

import pytest

from foretune.reports.latex import to_latex
from foretune.reports.markdown import to_markdown
from foretune.reports.report import build
from foretune.reports.tables import tables


def test_the_tables_of_a_report(report):
    titles = [table.title for table in tables(report)]
    assert titles[:2] == ["rte with test-model", "sst2 with test-model"]
    assert "Cost on sst2 with test-model" in titles
    assert "Sensitivity of lozo, full, rte with test-model: dev accuracy %" in titles
    assert all(len(row) == len(table.heads) for table in tables(report) for row in table.rows)


def test_a_line_of_the_leaderboard(make_run, read_back):
    runs = [make_run(test=test, dev=0.8, seed=seed, seconds=90.0) for seed, test in enumerate((0.8, 0.9))]
    (table,) = tables(build(read_back(runs)))
    line = dict(zip(table.heads, table.rows[0], strict=True))
    assert line[">test accuracy %"] == "85.0 ± 7.1"
    assert line[">gain"] == "+45.0"
    assert line["selected"] == "lr 1e-6, zo_eps 1e-3"
    assert (line[">settings tried"], line[">failed runs"], line[">passes"], line[">time"]) == (
        "1",
        "0",
        "200",
        "90.0 s",
    )
    assert line["published (not measured here)"] == "91.4 (opt-13b; MeZO, T1; P)"


def test_markdown_keeps_columns_and_escapes_names(make_run, read_back):
    text = to_markdown(build(read_back([make_run("my|me*thod")])))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert r"my\|me\*thod" in text
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_latex_escapes_what_has_a_meaning_there(make_run, read_back):
    text = to_latex(build(read_back([make_run("a_b&c%")])))
    assert r"a\_b\&c\%" in text
    body = text.partition("\n\n")[2]
    assert body.count(r"\begin{tabular}") == body.count(r"\end{tabular}") == body.count(r"\toprule") > 0
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", body)[1])
    rows = [line for line in body.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
    assert body.isascii()


def test_every_latex_table_is_plain_text(report):
    assert to_latex(report).isascii()


@pytest.mark.parametrize("write", [to_markdown, to_latex])
def test_what_to_know_comes_first(report, write):
    assert 0 < write(report).index("methods were tuned unequally") < write(report).index("adam")
