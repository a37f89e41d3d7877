from itertools import islice

import pytest
import torch

from foretune.errors import UsageError
from sampled import SquaredError, linear_model, linear_rows, sampled_loss


def inputs_of(samples):
    return [tuple(row.tolist()) for sample in samples for batch in sample for row in batch["inputs"]]


def test_a_pass_serves_every_row_once_but_those_that_are_held_out():
    loss = sampled_loss(linear_model(), batch_size=8)
    steps_a_pass = (200 - 100) // 8
    served = inputs_of(islice(loss.samples(1), steps_a_pass))
    assert len(set(served)) == len(served) == steps_a_pass * 8
    held_out = inputs_of(loss._held_out)
    assert len(set(held_out)) == len(held_out) == 96  # whole batches of at most half of the rows
    assert not set(served) & set(held_out)
    again = inputs_of(islice(loss.samples(1), steps_a_pass, 2 * steps_a_pass))
    assert again != served
    assert inputs_of(islice(loss.samples(1), steps_a_pass)) == served
    assert inputs_of(islice(loss.samples(2), steps_a_pass)) != served


def test_many_rows_hold_sixteen_batches_out():
    loss = sampled_loss(linear_model(), linear_rows(2000), batch_size=4, num_micro_batches=3)
    assert len(loss.held_out()) == 16
    assert len(inputs_of(loss._held_out)) == 16 * 12


def test_few_rows_make_small_batches():
    loss = sampled_loss(linear_model(), linear_rows(10), batch_size=64)
    assert len(loss.held_out()) == 5
    assert [len(batch["inputs"]) for batch in next(loss.samples(0))] == [5]


def test_micro_batches_combine_to_the_loss_of_all_their_rows():
    model, objective = linear_model(), SquaredError()
    loss = sampled_loss(model, linear_rows(26), batch_size=8, num_micro_batches=2)
    sample = next(loss.samples(0))
    assert [len(batch["inputs"]) for batch in sample] == [8, 5]
    loss.use(sample)
    assert loss.num_micro_batches == 2
    whole = {key: torch.cat([batch[key] for batch in sample]) for key in ("inputs", "targets")}
    torch.testing.assert_close(loss(), objective.loss(model, whole).double())
    assert loss.num_forwards == 2


def test_one_row_is_refused():
    with pytest.raises(UsageError, match=r"A probe needs 2 training rows.*there are 1\."):
        sampled_loss(linear_model(), linear_rows(1))
