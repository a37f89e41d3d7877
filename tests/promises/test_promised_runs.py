"""What a run is: a function of its seed, its records and its data, stopped and resumed where one likes."""

import copy
from dataclasses import replace

import pytest
import torch

from foretune.journal.record import encode_record
from foretune.methods import AbstractMethod
from promised import build, run, state_of
from toys import Toys, differing_bits, weights_of

NUM_STEPS = 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_replay_gives_the_same_bits(recipe: type[AbstractMethod], toys: Toys, dtype: torch.dtype) -> None:
    """Weights and state from the records alone, on a fresh optimizer, without a forward."""
    model = toys.net(dtype)
    optimizer = build(recipe, model)
    records = run(optimizer, model, NUM_STEPS)
    replayed = build(recipe, toys.net(dtype))
    for record in records:
        replayed.replay(record)
    assert differing_bits(state_of(optimizer), state_of(replayed)) == []
    assert differing_bits(weights_of(model), weights_of(toys.net(dtype))) != []


def test_a_resumed_run_is_the_uninterrupted_one(recipe: type[AbstractMethod], toys: Toys) -> None:
    """Bit for bit, cut after any step (so also where a basis is about to be redrawn)."""
    model = toys.net()
    optimizer = build(recipe, model)
    checkpoints = []
    for _ in range(NUM_STEPS):
        checkpoints.append(copy.deepcopy((model.state_dict(), optimizer.state_dict())))
        optimizer.step(model)
    for num_done, (weights, state) in enumerate(checkpoints):
        resumed_model = toys.net()
        resumed = build(recipe, resumed_model, lr=123.0)
        resumed_model.load_state_dict(weights)
        resumed.load_state_dict(state)
        assert resumed.num_steps == num_done
        run(resumed, resumed_model, NUM_STEPS - num_done)
        assert differing_bits(state_of(optimizer), state_of(resumed)) == []


def test_the_seed_decides_the_bits(recipe: type[AbstractMethod], toys: Toys) -> None:
    """The same run twice gives the same bits, another seed other ones in every trainable tensor."""
    results = []
    for seed in (3, 3, 4):
        model = toys.net()
        run(build(recipe, model, seed=seed), model, NUM_STEPS)
        results.append(weights_of(model))
    assert differing_bits(results[0], results[1]) == []
    moved = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(differing_bits(results[0], results[2])) == moved


def test_registration_order_is_irrelevant(recipe: type[AbstractMethod], toys: Toys) -> None:
    results = []
    for order in (("first", "norm", "frozen", "head"), ("head", "frozen", "norm", "first")):
        model = toys.net(order=order)
        run(build(recipe, model), model, NUM_STEPS)
        results.append(dict(sorted(weights_of(model).items())))
    assert differing_bits(*results) == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_solves_the_toy_problem_in_its_stated_steps(recipe: type[AbstractMethod], toys: Toys, seed: int) -> None:
    """A linear regression of a dozen numbers: the loss falls below a hundredth of the first one."""
    model = toys.regression()
    optimizer = build(recipe, model, seed=seed)
    first = model().item()
    run(optimizer, model, recipe.toy.num_steps)
    assert model().item() < 0.01 * first


def test_a_step_takes_at_most_64_bytes_of_journal(recipe: type[AbstractMethod], toys: Toys) -> None:
    """With one direction; what further ones add is taken off. Observations (masks of rows) are measured elsewhere."""
    model = toys.net()
    optimizer = build(recipe, model)
    for record in run(optimizer, model, NUM_STEPS):
        size = len(encode_record(replace(record, observation=b""), 0)[0])
        num_directions = len(optimizer.parts.estimator.weights(record.scalars))
        scalars_of_one = -(-len(record.scalars) // num_directions)
        assert size - 8 * (len(record.scalars) - scalars_of_one) <= 64
