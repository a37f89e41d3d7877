"""Figures for papers."""

from __future__ import annotations

from foretune.ledger import Point
from foretune.reports.figures import write_figures
from foretune.reports.report import build


def test_every_part_is_drawn_twice_and_again_with_equal_bytes(make_run, read_back, tmp_path):
    points = [Point(0, {"diagnostics.lora_a.norm": 1.0})]
    points += [Point(step, {"loss": 1.0, "eval_loss": 0.5, "forward_passes": 2.0 * step}) for step in (1, 2)]
    runs = [make_run(peak_memory_bytes=2**30), make_run(lr=1e-5, dev=0.1)]
    report = build(read_back(runs, [points]))
    found = {}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        found[name] = {path.name: path.read_bytes() for path in write_figures(report, tmp_path / name)}
    assert found["first"] == found["second"]
    place = "opt-13b-sst2"
    assert {name.removesuffix(".svg") for name in found["first"] if name.endswith(".svg")} == {
        f"leaderboard-{place}",
        f"memory-{place}",
        *(f"{quantity}-{place}-full-by-{axis}" for quantity in ("loss", "eval_loss") for axis in ("passes", "steps")),
        f"diagnostics-{place}-full",
        *(f"sensitivity-{metric}-{place}-full-mezo" for metric in ("loss", "accuracy")),
    }
    assert all(name.removesuffix(".svg") + ".png" in found["first"] for name in found["first"] if ".svg" in name)
    assert b"test accuracy, %" in found["first"][f"leaderboard-{place}.svg"]
