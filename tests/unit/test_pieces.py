import pytest
import torch

from foretune import pieces as module
from foretune.methods import make_method
from foretune.optimizer import Optimizer
from foretune.pieces import LEAST_NUMEL, MAX_PIECES, num_pieces, piece_bounds, pieces
from toys import Quadratic


def test_large_tensors_are_parted_into_views_of_themselves():
    rows, columns = 64, 8 * LEAST_NUMEL // 64
    large, small = torch.zeros(rows, columns), torch.zeros(rows, LEAST_NUMEL // 32 - 1)
    for number, piece in enumerate(pieces(large)):
        assert piece.shape == (rows, columns // 8)
        piece.fill_(number)
    assert torch.equal(large[5].unique(), torch.arange(8, dtype=torch.float32))
    assert [piece.shape for piece in pieces(large, dim=0)] == [(rows // 8, columns)] * 8
    (whole,) = pieces(small)
    assert whole.data_ptr() == small.data_ptr()


@pytest.mark.parametrize("numel", [0, 1, 1000, LEAST_NUMEL - 1, 2 * LEAST_NUMEL, 9 * LEAST_NUMEL + 17, 1 << 30])
def test_bounds_of_pieces_cover_all_numbers_once(numel):
    bounds = list(piece_bounds(numel))
    assert [start for start, _ in bounds[1:]] == [stop for _, stop in bounds[:-1]]
    assert bounds == [] if numel == 0 else (bounds[0][0], bounds[-1][1]) == (0, numel)
    assert len(bounds) <= num_pieces(numel) <= MAX_PIECES
    assert all(start % 64 == 0 for start, _ in bounds)


@pytest.mark.parametrize("method", ["zo_adamu", "hizoo"])
def test_a_tensor_moves_alike_in_pieces_and_whole(method, monkeypatch):
    def run():
        model = Quadratic({"layer.weight": (40, 33)}).float()
        recipe = make_method(method, {"lr": 1e-3}, total_steps=10, tuning="full")
        optimizer = Optimizer(model, **recipe.optimizer_arguments())
        for _ in range(4):
            optimizer.step(model)
        return model.flat().detach(), optimizer.state_dict()["state"]["layer.weight"]["tensors"]

    whole, state = run()
    monkeypatch.setattr(module, "LEAST_NUMEL", 190)
    assert len(list(piece_bounds(40 * 33))) == 6
    in_pieces, state_in_pieces = run()
    assert torch.equal(whole, in_pieces)
    assert all(torch.equal(state[name], state_in_pieces[name]) for name in state)
