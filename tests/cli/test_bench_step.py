"""`foretune bench step`: what it prints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foretune.cli import bench
from foretune.cli.main import main
from foretune.runs.config import StepBenchConfig
from foretune.runs.step_bench import Table, run_step_bench
from foretune.runs.step_row import FLOOR, STEP

SIZES = "--batch 2 --tokens 6 --repeats 1 --device cpu --skip-published"


def test_a_table_for_each_workload_and_what_is_left_out(tmp_path, capsys):
    path = tmp_path / "step.csv"
    code = main(f"bench step --methods lozo zobcd --tuning full lora --engines layerwise {SIZES} --csv {path}".split())
    out = capsys.readouterr().out
    assert code == 0
    assert "mini, full tuning, classification loss, 2 x 6 tokens, float32, cpu" in out
    assert "mini, lora tuning" in out
    assert "lozo, layerwise" in out
    assert "Left out: zobcd/layerwise: Method 'zobcd' is not defined for --tuning full; use lora." in out
    assert f"Written: {path}" in out
    assert path.exists()


@pytest.mark.parametrize(("high", "is_busy"), [(1.2, False), (1.4, True)])
def test_a_busy_machine_is_named(high, is_busy, capsys):
    config = StepBenchConfig(batch=[1], tokens=["4"], repeats=1, device="cpu", skip_published=True, methods=["mezo"])
    (table,) = run_step_bench(config)
    rows = [
        replace(row, value=1.1, low=1.0, high=high) if (row.method, row.what) == (FLOOR, STEP) else row
        for row in table.rows
    ]
    bench.show_steps(Table(table.workload, rows, []))
    assert ("the machine is busy" in capsys.readouterr().out) == is_busy


def test_the_command_for_a_gpu_parses_up_to_the_gpu(monkeypatch, tmp_path, capsys):
    page = (Path(__file__).resolve().parents[2] / "docs" / "performance.md").read_text().replace("\\\n", " ")
    line = next(line for line in page.splitlines() if line.startswith("    foretune bench step"))
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(line.split()[1:]) == 2
    assert "PyTorch finds no CUDA devices" in capsys.readouterr().err
