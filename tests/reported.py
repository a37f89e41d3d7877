"""A ledger of made-up runs, so that every part of a report has something to show. None of its figures was measured."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from foretune.ledger import Ledger, Point, Run

MODEL = "made-up/Test-Model"
RATES = (1e-5, 1e-4, 1e-3)
SCALES = (1e-3, 1e-2)
STEPS = 400
PASSES = {"mezo": 2, "lozo": 2, "hizoo": 3, "zobcd": 2, "adam": 1}
BEST = {"mezo": 0.74, "lozo": 0.78, "hizoo": 0.71, "zobcd": 0.80, "adam": 0.88}


def make_ledger(path: Path) -> Path:
    """Write the ledger: five methods on two tasks, grids of two seeds and more for what wins, and runs that failed."""
    draw = random.Random(7)
    with Ledger.open(path, create=True) as ledger:
        for number, run in enumerate(_runs(draw)):
            run_id = f"{number:012x}"
            started = datetime(2026, 1, 31, 12, tzinfo=UTC) + timedelta(minutes=number)
            ledger.add(_with(run, id=run_id, started=started, ended=started + timedelta(seconds=40)))
            if run.status == "finished":
                ledger.add_points(run_id, _points(run, draw))
    return path


def _with(run: Run, **changes) -> Run:
    from dataclasses import replace

    return replace(run, **changes)


def _runs(draw: random.Random) -> Iterator[Run]:
    for task, ease in (("sst2", 0.0), ("rte", -0.12)):
        for method, best in BEST.items():
            tuning = "lora" if method == "zobcd" else "full"
            scales = (None,) if method == "adam" else SCALES
            for rate in RATES:
                for scale in scales:
                    chosen = rate == 1e-4 and scale in (None, 1e-3)
                    for seed in range(3 if chosen else 1):
                        yield _run(draw, task, method, tuning, rate, scale, seed, best + ease)


def _run(draw, task, method, tuning, rate, scale, seed, best) -> Run:
    off = abs(math.log10(rate / 1e-4)) + (0.4 if scale == 1e-2 else 0.0)
    accuracy = best - 0.07 * off + draw.uniform(-0.012, 0.012)
    recipe = {"name": method, "lr": rate, **({} if scale is None else {"zo_eps": scale})}
    diverged = method == "hizoo" and rate == 1e-3
    backward = method == "adam"
    return Run(
        id="",
        name=f"{task}-{method}-{rate:g}-{scale or 0:g}-{seed}",
        status="diverged" if diverged else "finished",
        method=method,
        task=task,
        tuning=tuning,
        model=MODEL,
        seed=seed,
        train_set_seed=0,
        config={"method": recipe, "tuning": {"name": tuning}, "steps": STEPS, "seed": seed, "train_set_seed": 0},
        commit="0000000",
        device="a machine that was made up",
        steps=37 if diverged else STEPS,
        total_steps=STEPS,
        metrics={"zero_shot.accuracy": 0.55, "zero_shot.loss": 0.7, "majority.accuracy": 0.5}
        | (
            {}
            if diverged
            else {
                "final.accuracy": accuracy,
                "final.loss": 1 - accuracy,
                "dev.accuracy": accuracy + draw.uniform(-0.01, 0.01),
                "dev.loss": 1 - accuracy,
            }
        ),
        seconds=20.0 + 10 * PASSES[method],
        seconds_per_step=0.05,
        peak_memory_bytes=int((600 + 40 * len(method) + (800 if backward else 0)) * 2**20),
        forward_passes=(37 if diverged else STEPS) * PASSES[method],
        backward_passes=STEPS if backward else 0,
        error="Loss is nan at step 37 <&>" if diverged else None,
    )


def _points(run: Run, draw: random.Random) -> Iterator[Point]:
    assert run.method is not None
    best = run.metrics["dev.accuracy"]
    for step in range(0, STEPS + 1, 10):
        share = 1 - math.exp(-step / 130)
        figures: dict[str, float] = {}
        if step:
            figures["loss"] = 0.7 - 0.35 * share * best + draw.uniform(-0.02, 0.02)
            figures["seconds"] = 4 + 0.05 * step * PASSES[run.method]
            figures["forward_passes"] = float(step * PASSES[run.method])
            figures["backward_passes"] = float(step if run.method == "adam" else 0)
        if step and step % 50 == 0:
            figures["eval_accuracy"] = 0.55 + (best - 0.55) * share + draw.uniform(-0.008, 0.008)
            figures["eval_loss"] = 0.7 - 0.4 * share * best
        if run.method == "zobcd" and step % 20 == 0:
            for group, size in (("lora_a", 3.0), ("lora_b", 0.0)):
                prefix = f"diagnostics.{group}"
                figures |= {
                    f"{prefix}.norm": size + share,
                    f"{prefix}.mean": 0.001 * draw.uniform(-1, 1),
                    f"{prefix}.variance": 0.01 * (1 + share),
                    f"{prefix}.distance": share,
                    f"{prefix}.cosine": 0.02 + draw.uniform(-0.01, 0.01),
                    f"{prefix}.relative_variance": 900 + draw.uniform(-90, 90),
                }
        yield Point(step, figures)
