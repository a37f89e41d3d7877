import csv

import pytest


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_quick_run_measures_everything_but_memory(tmp_path, capsys):
    import run

    output = tmp_path / "step.csv"
    run.main(["--quick", "--methods", "mezo/layerwise", "lozo/in_place", "--output", str(output)])

    rows = read(output)
    figures = {(row["method"], row["what"], row["tokens"]): float(row["value"]) for row in rows}
    for tokens in ("48", "9-58"):
        for name in ("two forwards", "published", "mezo/layerwise", "lozo/in_place"):
            assert figures[name, "step", tokens] > 0
        for name in ("mezo/layerwise", "lozo/in_place"):
            assert 0 < figures[name, "noise and update share", tokens] < 1
            assert figures[name, "ratio to floor", tokens] > 0
            assert figures[name, "speed-up over published", tokens] > 0
    assert any(row["unit"] == "ns/element" and float(row["value"]) > 0 for row in rows)
    assert {row["shape"] for row in rows} == {"tiny"}
    for row in rows:
        if row["low"] != "nan":
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    printed = capsys.readouterr().out
    assert "mezo/layerwise" in printed
    assert f"{len(rows)} rows appended" in printed


def test_adapters_are_measured_against_their_own_floor(tmp_path):
    import run

    output = tmp_path / "step.csv"
    tunings = ("lora", "prefix", "prompt")
    run.main(["--quick", "--tuning", *tunings, "--methods", "mezo/layerwise", "--output", str(output)])
    rows = read(output)
    assert {row["shape"] for row in rows} == {f"tiny {tuning}" for tuning in tunings}
    for what in ("ratio to floor", "speed-up over published"):
        found = [row for row in rows if (row["method"], row["what"]) == ("mezo/layerwise", what)]
        assert [(row["shape"], row["tokens"]) for row in found] == [
            (f"tiny {tuning}", tokens) for tuning in tunings for tokens in ("48", "9-58")
        ]


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--methods", "adam"], ["--shape", "gpt"]])
def test_wrong_options_are_refused(arguments, capsys):
    import run

    with pytest.raises(SystemExit):
        run.parse(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_a_step_of_several_directions_is_compared_with_as_many_floors(tmp_path):
    import run
    from ledger import Ledger
    from workload import SHAPES, build_model

    ledger = Ledger(shape="tiny", dtype="float32")
    contestant = run.CONTESTANTS["mezo-4/layerwise"]
    run.measure_steps(ledger, build_model(SHAPES["tiny"]), SHAPES["tiny"], (6, 6), [contestant], repeats=1)
    figures = {(row.method, row.what): row.value for row in ledger.rows}
    step, floor = figures["mezo-4/layerwise", "step"], figures["two forwards", "step"]
    assert figures["mezo-4/layerwise", "ratio to floor"] == pytest.approx(step / (4 * floor))
    speed_up = 4 * figures["published", "step"] / step
    assert figures["mezo-4/layerwise", "speed-up over published"] == pytest.approx(speed_up)
