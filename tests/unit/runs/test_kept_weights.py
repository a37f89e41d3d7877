import errno
import os
import tempfile

import pytest
import torch
from torch import nn

from foretune.errors import ForetuneError
from foretune.parameters import collect_trainables
from foretune.runs.kept_weights import KeptWeights, kept_weights
from toys import differing_bits, weights_of


def model_of(dtype):
    """Tensors with every kind of bits: both zeros, infinity, nan, a transposed matrix, one number."""
    values = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-7, -3.0])
    return nn.ParameterDict(
        {
            "vector": nn.Parameter(values.to(dtype)),
            "transposed": nn.Parameter(torch.arange(12.0).reshape(3, 4).to(dtype).T),
            "number": nn.Parameter(torch.tensor(0.5, dtype=dtype)),
        }
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_bit_is_back_as_often_as_asked_and_at_the_end(dtype):
    model = model_of(dtype)
    before = weights_of(model)
    with kept_weights(collect_trainables(model)) as kept:
        for _ in range(2):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(7.0)
            assert len(differing_bits(weights_of(model), before)) == 3
            kept.restore()
            assert differing_bits(weights_of(model), before) == []
        model["vector"].data.fill_(7.0)
    assert differing_bits(weights_of(model), before) == []


def test_an_error_restores_them_too_and_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = model_of(torch.float32)
    before = weights_of(model)
    with pytest.raises(KeyError), kept_weights(collect_trainables(model)):
        model["number"].data.fill_(7.0)
        assert list(tmp_path.iterdir()) == []
        raise KeyError
    assert differing_bits(weights_of(model), before) == []
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_said_in_a_line(monkeypatch):
    def full(self, trainables, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(KeptWeights, "__init__", full)
    with (
        pytest.raises(ForetuneError, match=r"Cannot keep the weights in .*: No space left.*take 0 MiB; set TMPDIR"),
        kept_weights(collect_trainables(model_of(torch.float32))),
    ):
        pass
