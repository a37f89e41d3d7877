"""Rows of several evaluations: repeated, cut apart, joined, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from foretune.engine.rows import NotOneBatch, Withheld, count_positions, count_rows, cut, cut_arguments, join, repeated
from foretune.errors import IncompatibleError

IDS = torch.arange(12).view(3, 4)


@pytest.mark.parametrize(
    ("leaves", "floats", "num_rows"),
    [
        ([IDS], False, 3),
        ([IDS, IDS > 3, None, 7, "eager", torch.float32, torch.tensor(2)], False, 3),
        ([IDS, torch.arange(4).view(1, 4)], False, 3),
        ([IDS[:1], torch.tensor([4])], False, 1),
        ([IDS, torch.arange(4)], False, None),
        ([IDS.float()], False, None),
        ([IDS.float()], True, 3),
        ([IDS, torch.zeros(3, 1, 4, 4)], True, 3),
        ([IDS, object()], True, None),
        ([torch.tensor(3), 2], True, None),
    ],
)
def test_data_are_arguments_with_as_many_rows(leaves, floats, num_rows) -> None:
    assert count_rows(leaves, floats=floats) == num_rows


def test_positions_are_rows_times_tokens() -> None:
    assert count_positions([IDS, torch.zeros(3, 1, 4, 4), 5]) == 12
    assert count_positions([torch.zeros(7)]) == 7


def test_what_all_rows_share_is_not_repeated_and_everything_is_a_copy() -> None:
    shared, number = torch.arange(4).view(1, 4), torch.tensor(5)
    assert torch.equal(repeated(IDS, 2, 3), torch.cat((IDS, IDS)))
    for leaf in (shared, number):
        copy = repeated(leaf, 2, 3)
        assert torch.equal(copy, leaf)
        assert copy is not leaf
        assert copy.data_ptr() != leaf.data_ptr()
    assert repeated("text", 2, 3) == "text"


@dataclass
class Output:
    logits: Tensor
    others: tuple[Tensor, ...]
    name: str = "output"


def test_every_evaluation_gets_its_share_of_a_result() -> None:
    batch = torch.arange(24.0).view(6, 4)
    flat = batch.repeat_interleave(2, dim=0)  # two tokens a row, in one dimension
    output = Output(batch, (flat,))
    first, second = cut({"a": output, "b": [None, 3]}, 2, 3)
    assert torch.equal(second["a"].logits, batch[3:])
    assert torch.equal(second["a"].others[0], flat[6:])
    assert (first["b"], second["a"].name) == ([None, 3], "output")
    shares = cut(BaseModelOutput(last_hidden_state=batch), 2, 3)
    assert isinstance(shares[0], BaseModelOutput)
    assert torch.equal(shares[0].last_hidden_state, batch[:3])
    assert shares[0].hidden_states is None


@pytest.mark.parametrize("shape", [(), (4,), (3, 6), (1, 6)])
def test_what_has_other_rows_is_not_cut(shape) -> None:
    with pytest.raises(NotOneBatch, match="tensor of shape"):
        cut((torch.zeros(6, 2), torch.zeros(shape)), 2, 3)


def test_unknown_objects_are_withheld() -> None:
    share = cut((torch.zeros(6), object()), 2, 3)[1][1]
    assert isinstance(share, Withheld)
    with pytest.raises(IncompatibleError, match="asks for 'layers' of a object"):
        share.layers  # noqa: B018


def test_arguments_are_cut_and_results_joined() -> None:
    batch = torch.arange(12.0).view(6, 2)
    shares, is_cut = cut_arguments([batch, torch.ones(1, 2), 3], 2, 3)
    assert is_cut
    assert torch.equal(shares[1][0], batch[3:])
    assert torch.equal(shares[1][1], torch.ones(1, 2))
    results = [(share[0] * share[2], None, 5) for share in shares]
    joined = join(results, 3, of_rows=True)
    assert torch.equal(joined[0], batch * 3)
    assert joined[1:] == (None, 5)


def test_a_result_that_all_rows_share_becomes_one_of_each_row() -> None:
    shares, is_cut = cut_arguments([torch.ones(1, 2)], 2, 3)
    assert not is_cut
    results = [share[0] * factor for share, factor in zip(shares, (2.0, 5.0), strict=True)]
    joined = join(results, 3, of_rows=False)
    assert torch.equal(joined[:, 0], torch.tensor([2.0, 2.0, 2.0, 5.0, 5.0, 5.0]))
    with pytest.raises(NotOneBatch, match="a row for each"):
        join([torch.ones(4, 2)] * 2, 3, of_rows=False)
    with pytest.raises(NotOneBatch, match="a row for each"):
        join([torch.ones(())] * 2, 3, of_rows=True)
