"""Null drift: how many bits of the weights differ after many steps at learning rate 0. It must be none.

    OMP_NUM_THREADS=1 python benchmarks/null_drift.py [--steps 2000] [--model DIR] [--quick]

Every step perturbs, measures and restores as always; only the update has the length zero. One thread is the
fastest on a model this small.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import torch
from bits import copy_weights, count_changed_bits
from workload import SHAPES, Shape, build_model, make_rows

from foretune.methods import make_method
from foretune.objectives import ClassificationObjective
from foretune.optimizer import Optimizer

DTYPES = ("float32", "bfloat16", "float16")
METHODS = ("mezo", "lozo")
ENGINES = ("layerwise", "in_place")
LENGTHS = (9, 12, 5, 7)


def changed_bits(model: torch.nn.Module, vocabulary: Shape, method: str, engine: str, steps: int) -> int:
    """Make `steps` steps of lr 0 and return how many bits of the weights changed."""
    objective = ClassificationObjective()
    batch = objective.collate(make_rows(vocabulary, LENGTHS))
    optimizer = Optimizer(model, **make_method(method, {"lr": 0.0}).optimizer_arguments(), engine=engine)
    before = copy_weights(model)
    for _ in range(steps):
        optimizer.step(lambda: objective.loss(model, batch))
    return count_changed_bits(before, copy_weights(model))


def load(path: str | None, shape: Shape, dtype: str) -> torch.nn.Module:
    """Return the model in a folder, or one of random weights."""
    if path is None:
        return build_model(shape, getattr(torch, dtype))
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="steps of each run")
    parser.add_argument("--model", help="folder of a small pre-trained model; default: random weights")
    parser.add_argument("--quick", action="store_true", help="a smoke run: five steps")
    found = parser.parse_args(arguments)
    if found.quick:
        found.steps = 5
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a run and return 1 if any bit changed."""
    options = parse(arguments)
    shape = SHAPES["tiny"]
    total = 0
    print(f"{'method':<8}{'engine':<11}{'dtype':<10}{'steps':>7}{'changed bits':>14}")
    for dtype in DTYPES:
        model = load(options.model, shape, dtype)
        for method in METHODS:
            for engine in ENGINES:
                bits = changed_bits(model, shape, method, engine, options.steps)
                total += bits
                print(f"{method:<8}{engine:<11}{dtype:<10}{options.steps:>7}{bits:>14}", flush=True)
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
