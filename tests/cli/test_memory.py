"""`foretune estimate`, `foretune bench memory` and `--task synthetic`."""

import csv
import json
from dataclasses import fields

import pytest

from foretune.cli.main import main
from foretune.methods import RECIPES
from foretune.runs import memory_bench
from foretune.runs.config import MemoryBenchConfig
from foretune.runs.memory_bench import Row, make_cases, run_bench
from foretune.runs.memory_case import INFERENCE, OUT_OF_MEMORY, Measured

COLUMNS = [field.name for field in fields(Row)]


def run(words, capsys):
    code = main(words.split())
    out, err = capsys.readouterr()
    return code, out, err


# ---------------------------------------------------------------- synthetic


@pytest.mark.parametrize("method", ["mezo --tuning lora", "adam"])
def test_a_run_on_random_tokens_needs_neither_data_nor_tokenizer(method, tmp_path, capsys):
    sizes = "--sequence-length 12 --batch-size 2 --steps 3 --device cpu"
    code, out, _ = run(f"train --task synthetic --model mini --method {method} {sizes} --output {tmp_path}/run", capsys)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert code == 0
    assert "s per step, peak memory" in out
    assert results["data"] == {"train": "random tokens", "sequence_length": 12}
    assert results["num_rows"] == {"train": 2, "dev": 0, "eval": 0}
    assert results["final_model"] is None
    assert not (tmp_path / "run" / "final").exists()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model opt-12b", "no such shape or folder. Did you mean: opt-13b"),
        ("--model mini --sequence-length 513", "mini has 512 positions"),
        ("--model mini --sequence-length 1", "--sequence-length must be at least 2, got 1"),
        ("--model mini --num-train 5", "--num-train 5 has no effect with --task synthetic"),
        ("--model mini --objective classification", "--objective classification has no effect"),
        ("--model mini --resume", "keeps no checkpoints"),
    ],
)
def test_bad_options_of_a_synthetic_run(words, message, tmp_path, capsys):
    code, _, err = run(f"train --task synthetic {words} --output {tmp_path}/run", capsys)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "run").exists()


def test_a_length_needs_the_synthetic_task(tmp_path, capsys):
    code, _, err = run(f"train --task sst2 --model mini --sequence-length 9 --output {tmp_path}/run", capsys)
    assert (code, "--sequence-length 9 has no effect without --task synthetic" in err) == (2, True)


# ---------------------------------------------------------------- estimate


def test_estimate_prints_the_method_between_inference_and_first_order(capsys):
    words = "estimate --model mini --method lozo --method.rank 3 --tuning lora --sequence-length 16 --device cpu"
    code, out, _ = run(words, capsys)
    assert code == 0
    assert "mini, lora tuning, 16 x 16 tokens, lm loss" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("│")][1:] == ["lozo", "sgd", "adam"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model opt-1.25b", "Did you mean: opt-125m"),
        ("--model mini --method mezoo", "mezo"),
        ("--model mini --sequence-length 4096", "mini has 512 positions"),
        ("--model mini --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("--model mini --method lozo --method.ranks 3", "--method.rank"),
        ("--model mini --objective f1", "--objective must be one of lm, classification"),
        ("--model roberta-large", "Use --objective classification"),
        ("--model roberta-large --objective classification --sequence-length 513", "roberta-large has 512 positions"),
        ("--model mini --method hybrid --method.hybrid-zo-layers 5", "hybrid_zo_layers must be from 0 to 4"),
        ("", "--model is missing"),
    ],
)
def test_bad_options_of_estimate(words, message, capsys):
    code, _, err = run(f"estimate {words}", capsys)
    assert (code, message in err) == (2, True), err


# ---------------------------------------------------------------- bench memory


def test_bench_prints_and_writes_what_was_measured_beside_what_was_predicted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(memory_bench, "measure", lambda case: Measured(1, 34 << 20, 0.5))
    table = tmp_path / "table.csv"
    words = f"bench memory --model mini --methods zo_adam --tunings full --lengths 16 --device cpu --csv {table}"
    code, out, err = run(words, capsys)
    assert code == 0, err
    assert "mini, 16 tokens, zo_adam full: 34.0 MiB, 0.500 s a step" in out
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["inference", "zo_adam"]
    assert int(rows[0]["predicted_bytes"]) < int(rows[1]["predicted_bytes"])


def test_what_does_not_fit_is_a_row(monkeypatch, tmp_path):
    def measured(case):
        return Measured(failure=OUT_OF_MEMORY) if case.method == "adam" else Measured(1, 2, 0.5)

    monkeypatch.setattr(memory_bench, "measure", measured)
    config = MemoryBenchConfig(methods=["mezo", "adam"], tunings=["lora"], lengths=[8, 16], device="cpu")
    config.csv, config.plot = str(tmp_path / "t.csv"), None
    rows = run_bench(config)
    assert [(row.method, row.tuning, row.failure) for row in rows[:3]] == [
        ("inference", "lora", ""),
        ("mezo", "lora", ""),
        ("adam", "lora", "out of memory"),
    ]
    assert (tmp_path / "t.csv").read_text().splitlines()[0].split(",") == COLUMNS
    run_bench(config)
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + 2 * len(rows)


def test_every_method_is_measured_with_the_schemes_it_is_defined_for_beside_inference():
    config = MemoryBenchConfig(methods=["all"], tunings=["full", "lora"], lengths=[8], device="cpu")
    cases = [(case.method, case.tuning) for case in make_cases(config)]
    full, lora = ([method for method, tuning in cases if tuning == scheme] for scheme in ("full", "lora"))
    assert full[0] == lora[0] == INFERENCE
    assert set(full[1:]) == {name for name in RECIPES if "full" in RECIPES.get(name).schemes}
    assert set(lora[1:]) == set(RECIPES)
    assert len(set(cases)) == len(cases)


def test_a_peak_is_compared_with_inference_a_layer_and_state(monkeypatch, capsys):
    vectors = 4 * (9 * 256 + 1024) + 2 * 256  # held
    mib, layer, state = 1 << 20, (4096 * 256 + vectors) * 4, 2 * 4339712 * 4
    peaks = {"inference": 30 * mib, "zo_adam": 30 * mib + layer + state + 2 * mib, "adam": 99 * mib}
    monkeypatch.setattr(memory_bench, "measure", lambda case: Measured(1, peaks[case.method], 0.0))
    config = MemoryBenchConfig(methods=["zo_adam", "adam"], tunings=["full"], lengths=[8], device="cpu", steps=0)
    inference, zo, fo = run_bench(config)
    assert (zo.inference_bytes, zo.layer_bytes, zo.state_bytes) == (30 * mib, layer, state)
    assert (zo.excess_bytes, zo.is_promised, zo.keeps_promise) == (2 * mib, True, False)
    assert not inference.is_promised
    assert not fo.is_promised
    code, out, _ = run("bench memory --methods zo_adam --tunings full --lengths 8 --device cpu --steps 0", capsys)
    line = next(line for line in out.splitlines() if line.startswith("│") and "zo_adam" in line)
    assert (code, [cell.strip() for cell in line.strip("│").split("│")][-4:]) == (0, ["4.1", "33.1", "2.0", "-"])


def test_plot_has_a_line_for_each_method_and_scheme(monkeypatch):
    monkeypatch.setattr(memory_bench, "measure", lambda case: Measured(1, case.sequence_length << 20, 0.5))
    config = MemoryBenchConfig(methods=["mezo", "adam"], tunings=["lora"], lengths=[8, 16], device="cpu")
    axes = memory_bench.plot(run_bench(config)).axes[0]
    assert [line.get_label() for line in axes.get_lines()] == ["inference, lora", "mezo, lora", "adam, lora"]
    assert list(axes.get_lines()[1].get_xdata()) == [8, 16]
    assert list(axes.get_lines()[1].get_ydata()) == [8 / 1024, 16 / 1024]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "foretune bench measures one of: memory"),
        ("memorie", "Did you mean: memory"),
        ("memory --model opt-12b", "Did you mean: opt-13b"),
        ("memory --lengths 8 1", "--lengths must be at least 2, got 1"),
        ("memory --lengths 1024", "mini has 512 positions"),
        ("memory --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("memory --methods zobcd --tunings full", "'zobcd' is not defined for --tuning full"),
        ("memory --plot nowhere/x.png", "--plot nowhere/x.png: give a file"),
        ("memory --csv x.txt", "--csv x.txt: give a file (.csv)"),
        ("memory --steps -1", "--steps must be at least 0, got -1"),
        ("memory --model mini-masked", "--objective lm: mini-masked is a masked language model"),
    ],
)
def test_bad_options_of_bench(words, message, capsys):
    code, _, err = run(f"bench {words}", capsys)
    assert (code, message in err) == (2, True), err
