import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from foretune.runs.live_memory import LiveMemory, num_bytes

KIB = 1024


def test_what_is_alive_is_counted_and_at_most():
    known = torch.zeros(256)  # 1 KiB
    with LiveMemory([known]) as live:
        a = known + 1
        b = a + 1
        assert live.now_bytes == 2 * KIB
        del a
        assert live.now_bytes == KIB
        c = b + 1
        del b
    assert (live.now_bytes, live.peak_bytes) == (KIB, 2 * KIB)
    del c
    assert live.now_bytes == 0


def test_views_and_what_was_known_count_nothing():
    known = torch.zeros(256)
    with LiveMemory([known]) as live:
        kept = [known.view(16, 16), known.t(), known[3:]]
    assert live.peak_bytes == 0
    assert num_bytes([known, *kept]) == KIB


def test_what_is_made_while_ignoring_counts_nothing():
    with LiveMemory() as live:
        with live.ignoring():
            kept = torch.zeros(256)
        kept.add_(1)
    assert live.peak_bytes == 0


def test_zeros_without_memory_count_nothing():
    with LiveMemory() as live:
        kept = torch._efficientzerotensor(256), torch.zeros(256, device="meta")
    assert live.peak_bytes == 0
    del kept


def test_the_temporary_inside_logsumexp_is_counted():
    scores = torch.zeros(16, 16)
    with LiveMemory([scores]) as live:
        scores.logsumexp(dim=1)
    assert live.peak_bytes == KIB + 16 * 4


def test_tensors_without_memory_count_alike():
    def run(x: torch.Tensor) -> None:
        y = torch.nn.functional.layer_norm(x @ x, (64,))
        (y.softmax(dim=-1) + 1).sum()

    real = torch.zeros(64, 64)
    with LiveMemory([real]) as counted:
        run(real)
    with FakeTensorMode():
        fake = torch.zeros(64, 64)
        with LiveMemory([fake]) as predicted:
            run(fake)
    assert predicted.peak_bytes == counted.peak_bytes > 0


# what is added last is differentiated first
SUMS = {
    "whole": (lambda x: (x * 3).sum() + (x * 2).sum(), 2),
    "view": (lambda x: (x * 3).sum() + (x.view(-1) * 2).sum(), 3),
}


@pytest.mark.parametrize("name", SUMS)
def test_gradients_are_added_as_autograd_adds_them(name):
    """In place, unless the first of them is a view: two or three tensors of the size of x at a time."""
    function, num_tensors = SUMS[name]
    x = torch.ones(512, 512, requires_grad=True)
    with LiveMemory([x]) as live:
        loss = function(x)
        with live.backward():
            loss.backward()
    assert live.peak_bytes == pytest.approx(num_tensors * x.nbytes, abs=64)

    x.grad = None
    with torch.profiler.profile(profile_memory=True) as unwatched:
        function(x).backward()
    added = sum(event.self_cpu_memory_usage for event in unwatched.events() if event.name == "aten::add")
    assert added == pytest.approx((num_tensors - 2) * x.nbytes, abs=64)
