import csv

import pytest


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_quick_run_measures_steps_and_noise(tmp_path, capsys):
    import run

    run.main(["--quick", "--folder", str(tmp_path)])
    steps, kernels = read(tmp_path / "step.csv"), read(tmp_path / "noise.csv")
    contestants = {(row["method"], row["engine"]) for row in steps}
    ours = {(method, engine) for method in ("mezo", "lozo") for engine in ("layerwise", "in_place")}
    assert contestants == {("floor", "-"), ("published", "-"), *ours}
    assert {row["model"] for row in steps} == {"mini"}
    for row in steps:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    assert {row["dtype"] for row in kernels} == {"float32", "bfloat16", "float16"}
    printed = capsys.readouterr().out
    assert "mezo, in_place" in printed
    assert f"{len(kernels)} rows appended" in printed


def test_tables_are_what_the_command_accepts(monkeypatch, tmp_path):
    import run

    from foretune.runs import step_bench

    class Enough(Exception):
        pass

    def stop(*args, **kwargs):
        raise Enough  # every option was checked

    monkeypatch.setattr(step_bench, "random_model", stop)
    for name in run.TABLES:
        with pytest.raises(Enough):
            run.main(["--tables", name, "--folder", str(tmp_path)])


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--tables", "speed"], ["--quick"]])
def test_wrong_options_are_refused(arguments, capsys):
    import run

    with pytest.raises(SystemExit):
        run.parse(arguments)
    assert arguments[0] in capsys.readouterr().err
