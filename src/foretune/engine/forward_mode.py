"""Forward-mode differentiation: parameters that carry a tangent, and the slope of a loss computed from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from foretune.errors import UsageError


@contextmanager
def forward_mode() -> Iterator[None]:
    """Let tensors carry tangents inside the block; afterwards none does.

    What has no forward-mode rule is kept from running: fused attention, compiled graphs, inference mode. No graph for
    a backward pass is recorded.

    Raises:
        UsageError: an operator without a forward-mode rule was called all the same.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        # by modules of torch's own, which fuse attention where no gradient is wanted
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.compiler.set_stance("force_eager"),
            forward_ad.dual_level(),
        ):
            yield
    except NotImplementedError as error:
        if re.search("forward (mode )?AD", str(error)) is None:
            raise
        raise UsageError(
            f"The loss cannot be differentiated in forward mode: {str(error).splitlines()[0]} Load the model with its "
            "attn_implementation='eager' if this is an attention kernel, or measure by differences of losses."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@torch.no_grad()
def attach_tangent(parameter: nn.Parameter, tangent: Tensor) -> None:
    """Make a parameter carry a copy of `tangent`, for everything that holds it; its own data is not touched."""
    # copying a tensor's data onto itself does nothing, but an in-place operator hands the tangent over
    parameter.copy_(forward_ad.make_dual(parameter.detach(), tangent))


def drop_tangent(parameter: nn.Parameter) -> None:
    """Free the tangent of a parameter, if it carries one."""
    tangent = forward_ad.unpack_dual(parameter).tangent
    if tangent is not None:
        tangent.data = tangent.new_empty(0)  # torch itself holds on to it until the dual level ends
    parameter.detach_().requires_grad_()


def read_tangent(loss: object) -> float:
    """Return the tangent of a closure's result.

    Raises:
        UsageError: the result carries none; the message says what it is instead.
    """
    if not isinstance(loss, Tensor):
        found = f"a {type(loss).__name__}, which carries no derivative"
    else:
        tangent = forward_ad.unpack_dual(loss).tangent
        if tangent is not None:
            return float(tangent.item())
        found = "a tensor that does not depend on the tensors that move by differentiable operations alone"
    raise UsageError(
        f"Forward-mode differentiation needs the loss as a differentiable tensor; the closure returned {found} (is it "
        "a metric, or detached, or computed in inference mode?). Return the loss itself, or measure by differences of "
        "losses, which any closure allows."
    )
