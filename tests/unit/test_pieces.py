import torch

from foretune.pieces import LARGE_NUMEL, NUM_PIECES, pieces


def test_large_tensors_are_parted_into_views_of_themselves():
    large, small = torch.zeros(64, LARGE_NUMEL // 64), torch.zeros(63, LARGE_NUMEL // 64)
    for number, piece in enumerate(pieces(large)):
        assert piece.shape == (64, LARGE_NUMEL // 64 // NUM_PIECES)
        piece.fill_(number)
    assert torch.equal(large[5].unique(), torch.arange(NUM_PIECES, dtype=torch.float32))
    assert [piece.shape for piece in pieces(large, dim=0)] == [(64 // NUM_PIECES, LARGE_NUMEL // 64)] * NUM_PIECES
    (whole,) = pieces(small)
    assert whole.data_ptr() == small.data_ptr()
