"""Every model of the zoo: the right engine, for the right reason, with the loss of a perturbed copy."""

from __future__ import annotations

import logging

import pytest

from engine_runs import MINUS, PLUS, SEVERAL, Shift, bits, loss_of_moved_copy, measure, num_hooks
from foretune.engine import choose_engine
from foretune.engine.in_place import InPlace
from foretune.parameters import collect_trainables
from model_zoo import ZOO, Entry


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_chosen_engine_and_in_place_give_the_loss_of_a_moved_copy(entry: Entry, caplog) -> None:
    model = entry.build()
    closure, trainables, before = entry.closure_of(model), collect_trainables(model), bits(model)
    modes = [module.training for module in model.modules()]
    with caplog.at_level(logging.WARNING):
        chosen = choose_engine("auto", model, trainables, closure)
    assert chosen.name == entry.engine, caplog.text
    assert (entry.obstacle or "") in caplog.text
    assert len(caplog.records) == (entry.obstacle is not None)

    some = frozenset(trainable.name for trainable in trainables[::2])
    shifts = [None, Shift(PLUS), Shift(MINUS), Shift(SEVERAL), Shift(PLUS, only=some)]
    wanted = [loss_of_moved_copy(model, entry.closure_of, shift) for shift in shifts]
    assert len(set(wanted)) == len(shifts) - (len(trainables) == 1)  # every shift is felt
    for engine in (chosen, InPlace(model, trainables)):
        found = [measure(engine, closure, shift) for shift in shifts]
        # the same values through the same kernels: only a matrix product may see another memory alignment
        assert found == pytest.approx(wanted, rel=2e-6)
        assert bits(model) == before
    assert num_hooks(model) == num_hooks(entry.build())
    assert [module.training for module in model.modules()] == modes
