"""docs/performance.md is what the ledgers say."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


@pytest.fixture
def ledgers():
    import report

    return report.Ledgers.read()


def row_of(ledgers, method, what="step"):
    return next(row for row in ledgers.steps if (row.method, row.what, row.tokens) == (method, what, "48"))


def test_the_page_is_generated_from_the_ledgers(ledgers):
    import report

    assert report.PAGE.read_text() == report.page(ledgers), "run 'make docs'"


def test_the_plots_are_generated_from_the_ledgers(ledgers, tmp_path):
    import figures
    import report

    assert {path.stem for path in report.IMAGES.glob("*.svg")} == set(report.plots(ledgers)), "run 'make docs'"
    if f"matplotlib=={importlib.metadata.version('matplotlib')}" not in CONSTRAINTS.read_text().splitlines():
        pytest.skip("another version of matplotlib than the one that drew the committed plots")
    for name, figure in report.plots(ledgers).items():
        figures.save(figure, tmp_path / f"{name}.svg")
        same = (tmp_path / f"{name}.svg").read_bytes() == (report.IMAGES / f"{name}.svg").read_bytes()
        assert same, f"{name}.svg: run 'make docs'"
        assert (tmp_path / f"{name}.svg").stat().st_size < 200_000


def test_the_latest_figure_of_a_contestant_counts(ledgers):
    import report

    old = row_of(ledgers, "mezo")
    rows = [old, replace(old, tuning="lora"), replace(old, value=9.0, commit="new")]
    assert report.latest(rows, lambda row: row.key) == [rows[2], rows[1]]


def test_a_workload_is_shown_as_one_machine_measured_it(ledgers):
    import report

    floor, mezo = row_of(ledgers, "floor"), row_of(ledgers, "mezo")
    elsewhere, other_workload = (replace(mezo, machine="another", **change) for change in ({}, {"batch": 1000}))
    assert report.of_one_machine([elsewhere, floor, mezo, other_workload]) == [floor, mezo, other_workload]


def test_empty_ledgers_make_a_page_too(tmp_path):
    import report

    page = report.page(report.Ledgers.read(tmp_path))
    assert page.count(report.NOT_MEASURED) >= 8
    assert "images/" not in page


def test_a_gpu_has_tables_of_its_own(ledgers):
    import report

    rows = [
        replace(
            row_of(ledgers, "mezo", what), device="cuda", machine="A GPU", dtype="bfloat16", tuning=tuning, value=value
        )
        for tuning, shift in (("full", 0.0), ("lora", 0.5))
        for what, value in (("ratio to floor", 1.02 + shift), ("noise and update share", 0.125))
    ]
    label = rows[0].label
    assert report.gpu_tables([*ledgers.steps, *rows]) == (
        "A GPU, opt-125m, bfloat16, classification loss, 16 x 48 tokens:\n\n"
        "|  | full | lora | prefix | prompt |\n| --- | --- | --- | --- | --- |\n"
        f"| {label} | 1.020, 12.5 % | 1.520, 12.5 % |  |  |"
    )


def test_growth_has_a_line_for_what_was_measured_at_three_values(ledgers):
    import figures

    floor, mezo, lozo = (row_of(ledgers, name) for name in ("floor", "mezo", "lozo"))
    rows = [replace(row, batch=batch, value=float(batch)) for row in (floor, mezo) for batch in (4, 1, 2)]
    rows += [replace(lozo, batch=batch) for batch in (1, 2)]  # two values are no line
    rows += [replace(lozo, rank=rank, value=1.0 + rank) for rank in (1, 4, 8)]
    lines = {kind.field: lines for kind in figures.GROWTHS if (lines := dict(figures.growth_lines(rows, kind)))}
    points = [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]
    assert lines == {
        "batch": {"floor": points, f"mezo, {mezo.engine}": points},
        "rank": {f"lozo, {lozo.engine}": [(1.0, 2.0), (4.0, 5.0), (8.0, 9.0)]},
    }
    axes = figures.growth(rows).axes
    assert [panel.get_xlabel() for panel in axes] == ["rows", "rank"]


def test_tables_have_methods_with_their_own_settings_where_there_are_such(ledgers):
    import report

    lozo = replace(row_of(ledgers, "lozo"), rank=2, num_directions=1)
    others = [replace(lozo, rank=4), replace(lozo, num_directions=2)]
    floor, es = row_of(ledgers, "floor"), replace(lozo, method="es", rank="", num_directions=2)
    assert report.usual([floor, *others, lozo, es]) == [floor, lozo, es]  # es has no other rows
    prompt = replace(lozo, method="subzero", tuning="prompt", rank=24)  # of which SubZero has another rank
    assert report.usual([prompt, replace(prompt, rank=8)]) == [prompt]


def test_engines_are_compared_by_scheme_and_rows(ledgers):
    import report

    mezo = replace(row_of(ledgers, "mezo", "ratio to floor"), value=1.5, low=1.25, high=1.75)
    rows = [replace(mezo, engine="paired", batch=1), replace(mezo, engine="layerwise", batch=4, tuning="lora")]
    rows.append(replace(mezo, method="published", engine="-", num_directions="", batch=1))
    assert report.engine_table(rows).splitlines()[2:] == [
        "| mezo, layerwise |  |  |  | 1.50 (1.25-1.75) |",
        "| mezo, paired | 1.50 (1.25-1.75) |  |  |  |",
    ]


def test_growth_has_a_table_in_units_of_the_floor(ledgers):
    import report

    mezo = row_of(ledgers, "mezo", "ratio to floor")
    rows = [replace(mezo, batch=batch, value=1 + 0.25 / batch) for batch in (4, 1, 2)]
    rows += [replace(mezo, batch=batch, method="published") for batch in (4, 1, 2)]
    rows += [replace(mezo, batch=batch, tuning="lora") for batch in (4, 1, 2)]
    assert report.growth_tables(rows) == (
        f"| rows | 1 | 2 | 4 |\n| --- | --- | --- | --- |\n| mezo, {mezo.engine} | 1.250 | 1.125 | 1.062 |"
    )


def test_parts_of_a_step_add_up_to_its_ratio(ledgers):
    import figures

    mezo = row_of(ledgers, "mezo")
    values = {"step": 2.0, "forward": 1.0, "noise": 0.5, "update": 0.25, "overhead": 0.25, "ratio to floor": 1.5}
    rows = [replace(mezo, what=what, value=value) for what, value in values.items()]
    axes = figures.step_breakdown(rows).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.375, 0.1875, 0.1875]
    assert figures.step_breakdown([row_of(ledgers, "floor")]) is None
