"""The noise as the rest of the package uses it: argument checks, and the choice of a backend.

Backends give the same bits, so the choice is about speed alone: Numba for CPU tensors, Triton for CUDA tensors
where it is installed, the PyTorch reference elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType

import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.noise import reference
from foretune.noise.address import LowRankNoise, Noise
from foretune.noise.layout import Layout, Window
from foretune.noise.mask import LaneMask, Mask, RowMask

_HALF = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_BACKENDS = {
    "reference": "foretune.noise.reference",
    "numba": "foretune.noise.cpu_numba",
    "triton": "foretune.noise.gpu_triton",
}
_forced: str | None = None


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force the backend "reference", "numba" or "triton" within a ``with`` block (for tests and measurements)."""
    global _forced
    if name not in _BACKENDS:
        raise UsageError(f"Unknown noise backend {name!r}. Available: {', '.join(_BACKENDS)}.")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def fill(out: Tensor, noise: Noise) -> Tensor:
    """Write z into `out` and return it.

    Args:
        out: Tensor of any shape, float16, bfloat16, float32 or float64; half types get z rounded to nearest.
        noise: Address of z; element e of the noise is element e of `out` in row-major order.

    Raises:
        UsageError: another dtype.
    """
    _check_dtype("out", out)
    if out.numel() == 0:
        return out
    target = _target(out, keep=False)
    _backend(out).fill(target, noise)
    _copy_back(out, target)
    return out


def lanes(shape: int | Sequence[int], noise: Noise, device: torch.device | str = "cpu") -> Tensor:
    """Return raw 16-bit lanes in [0, 65536), int32 of `shape`, elements in row-major order."""
    out = torch.empty(shape, dtype=torch.int32, device=device)
    if out.numel():
        out.view(-1).copy_(reference.lanes(torch.zeros(1, dtype=torch.int64, device=device), out.numel(), noise)[0])
    return out


def add(
    out: Tensor,
    base: Tensor,
    *,
    scale: float = 1.0,
    noise: Sequence[tuple[float, Noise]] = (),
    dense: tuple[float, Tensor] | None = None,
    rounding: Noise | None = None,
    rows: Tensor | None = None,
    window: Window | None = None,
    mask: Mask | None = None,
    mirrored: Tensor | None = None,
) -> None:
    """Write a multiple of `base` plus multiples of noise tensors into `out`.

        out = scale · base + coef · dense + Σᵢ cᵢ zᵢ

    in that order, every product rounded and then added (no fused multiply-add), in float64 for float64
    tensors and in float32 for all others. Coefficients are rounded once to that dtype; a term whose
    coefficient is then 0 is skipped, and so is a `scale` of 1: a learning rate of 0 changes no bit. Half
    types are rounded stochastically at the end; a representable value never changes.

    Args:
        out: Tensor to write: float16, bfloat16, float32 or float64. May be `base`, but not overlap it
            otherwise.
        base: Tensor of the same shape, dtype and device.
        scale: Factor of `base`.
        noise: Pairs of coefficient cᵢ and address of zᵢ.
        dense: A coefficient and a tensor of `out`'s shape in float32 (float64 for float64 tensors).
        rounding: Address of the rounding bits; required for half types, without effect on others.
        rows: Indexes along the first dimension, int64 (R,), on `out`'s device: only these rows are written. They may
            repeat where `out` is not `base`, or where `scale` is 0.
        window: `out` and `base` are this 2-D block of a larger matrix; elements are numbered as in that
            matrix.
        mask: Elements it does not keep are copied from `base` as they are.
        mirrored: A tensor like `out`, overlapping neither it nor `base`, that gets ``scale · base - coef · dense -
            Σᵢ cᵢ zᵢ``: the bits of a second call with negated coefficients, but every z is generated once.

    Raises:
        UsageError: a dtype, shape, device or row is wrong, or `rounding` is missing.
    """
    _check_pair(out, base, rounding)
    if mirrored is not None:
        _check_pair(mirrored, base, rounding)
    compute = torch.float64 if out.dtype == torch.float64 else torch.float32
    if dense is not None:
        _check_operand("dense", dense[1], out, compute, tuple(out.shape))
    if isinstance(mask, RowMask):
        if mirrored is not None:
            _copy_other_rows(mirrored, base, rows, mask.rows)
        rows, mask = _copy_other_rows(out, base, rows, mask.rows), None
    layout = _layout(out, rows, window)
    terms = [(c, address) for c, address in ((_rounded(c, compute), a) for c, a in noise) if c != 0]
    if dense is not None:
        coefficient = _rounded(dense[0], compute)
        dense = (coefficient, dense[1].contiguous()) if coefficient != 0 else None
    if layout.num_selected * layout.row_length == 0:
        return
    rounding = rounding if out.dtype in _HALF else None
    target = _target(out, keep=rows is not None)
    other = None if mirrored is None else _target(mirrored, keep=rows is not None)
    scale = _rounded(scale, compute)
    _backend(out).add(target, base.contiguous(), layout, scale, dense, terms, rounding, mask, other)
    _copy_back(out, target)
    if mirrored is not None and other is not None:
        _copy_back(mirrored, other)


def kept(mask: Mask, base: Tensor) -> Tensor:
    """Return which elements of `base` a mask keeps, bool, of its shape."""
    if isinstance(mask, LaneMask):
        lane = lanes(base.shape, mask.address, base.device)
        return (lane >= mask.start) & (lane < mask.stop)
    if isinstance(mask, RowMask):
        return torch.zeros_like(base, dtype=torch.bool).index_fill_(0, mask.rows, True)
    compute = torch.float64 if base.dtype == torch.float64 else torch.float32
    return base.detach().to(compute).abs() <= _rounded(mask.limit, compute)


def add_low_rank(
    out: Tensor,
    base: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    scale: float = 1.0,
    rounding: Noise | None = None,
    rows: Tensor | None = None,
) -> None:
    """Write a multiple of `base` plus a low-rank product into `out`.

        out[i, k] = scale · base[i, k] + Σⱼ left[i, j] · right[k, j]

    j in ascending order, every product rounded and then added; dtypes and rounding as in `add`.

    Args:
        out: Tensor of m · n elements in row-major order (a convolution's weight may keep its own shape); may
            be `base`.
        base: Tensor of the same shape, dtype and device.
        left: (m, r), float32 (float64 for float64 tensors).
        right: (n, r), same dtype.
        scale: Factor of `base`; skipped when 1.
        rounding: Address of the rounding bits; required for half types, without effect on others.
        rows: Rows of `left` and of `out` seen as (m, n), int64 (R,): only these are written; repeated as in `add`.

    Raises:
        UsageError: a dtype, shape, device or row is wrong, or `rounding` is missing.
    """
    _check_pair(out, base, rounding)
    compute = torch.float64 if out.dtype == torch.float64 else torch.float32
    if left.dim() != 2 or right.dim() != 2 or left.shape[1] != right.shape[1]:
        raise UsageError(
            "left and right must be matrices (m, r) and (n, r) of one rank; "
            f"found {tuple(left.shape)} and {tuple(right.shape)}."
        )
    num_rows, row_length = left.shape[0], right.shape[0]
    if num_rows * row_length != out.numel():
        raise UsageError(
            f"left {tuple(left.shape)} and right {tuple(right.shape)} make {num_rows} x {row_length}; "
            f"out has shape {tuple(out.shape)}."
        )
    for name, factor in (("left", left), ("right", right)):
        _check_operand(name, factor, out, compute, tuple(factor.shape))
    _check_rows(rows, num_rows, out)
    layout = Layout(num_rows, row_length, 0, 0, row_length, rows)
    if layout.num_selected * layout.row_length == 0:
        return
    rounding = rounding if out.dtype in _HALF else None
    target = _target(out, keep=rows is not None)
    scale = _rounded(scale, compute)
    _backend(out).add_low_rank(target, base.contiguous(), left, right, layout, scale, rounding)
    _copy_back(out, target)


def low_rank_factors(products: Sequence[tuple[float, LowRankNoise]], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of ``sum_j c_j A_j B_j^T / sqrt(rank_j)`` as `add_low_rank` takes them.

    Args:
        products: Pairs of a coefficient and a noise matrix.
        like: A tensor of that shape, seen as (shape[0], rest); the factors are on its device.
    Returns:
        left (m, R) and right (n, R), R the sum of all ranks, float32 (float64 for float64 tensors).
    """
    compute = torch.float64 if like.dtype == torch.float64 else torch.float32
    m = like.shape[0]
    ranks = [product.rank for _, product in products]
    left, right = (torch.empty(sum(ranks), size, dtype=compute, device=like.device) for size in (m, like.numel() // m))
    blocks = zip(products, left.split(ranks), right.split(ranks), strict=True)
    for (coefficient, product), left_rows, right_rows in blocks:
        fill(left_rows, product.left).mul_(coefficient / math.sqrt(product.rank))
        fill(right_rows, product.right)
    return left.T, right.T


def _backend(tensor: Tensor) -> ModuleType:
    return _load(_forced or _fastest(tensor.device.type))


@functools.cache
def _fastest(device_type: str) -> str:
    """Return the backend for a kind of device; warn, once, where the fast one is missing."""
    if device_type == "cpu":
        return "numba"
    if device_type != "cuda":
        return "reference"
    try:
        importlib.import_module("triton")
    except ImportError as error:
        warnings.warn(
            f"Triton cannot be imported ({error}): noise on CUDA tensors comes from the PyTorch reference, which gives "
            "the same bits but is slow. Install Triton with `pip install foretune[gpu]`.",
            stacklevel=3,
        )
        return "reference"
    return "triton"


@functools.cache
def _load(name: str) -> ModuleType:
    """Import a backend on first use: importing foretune must not import Numba or Triton."""
    return importlib.import_module(_BACKENDS[name])


def _rounded(value: float, dtype: torch.dtype) -> float:
    return float(value) if dtype == torch.float64 else ctypes.c_float(value).value


def _layout(out: Tensor, rows: Tensor | None, window: Window | None) -> Layout:
    if window is None and rows is None:
        return Layout(1, out.numel(), 0, 0, out.numel())
    if window is not None:
        if out.dim() != 2:
            raise UsageError(f"A window needs a 2-D tensor; out has shape {tuple(out.shape)}.")
        if min(window) < 0 or window.col_start + out.shape[1] > window.full_width:
            raise UsageError(f"{window} has no room for a block of shape {tuple(out.shape)}.")
    if out.dim() == 0:
        raise UsageError("rows needs a tensor with a first dimension; out has shape ().")
    num_rows = out.shape[0]
    _check_rows(rows, num_rows, out)
    row_length = out.numel() // max(1, num_rows)
    if window is None:
        return Layout(num_rows, row_length, 0, 0, row_length, rows)
    return Layout(num_rows, row_length, *window, rows)


@torch.no_grad()
def _copy_other_rows(out: Tensor, base: Tensor, rows: Tensor | None, kept_rows: Tensor) -> Tensor:
    """Write those of `rows` that a mask does not keep; return the others."""
    if rows is None:
        out.copy_(base)
        return kept_rows
    out[rows] = base[rows]
    return rows[torch.isin(rows, kept_rows)]


def _target(out: Tensor, *, keep: bool) -> Tensor:
    """Return `out` if it is contiguous, else a temporary in its place (with its values, if they matter)."""
    if out.is_contiguous():
        return out
    out = out.detach()
    return out.contiguous() if keep else torch.empty_like(out, memory_format=torch.contiguous_format)


def _copy_back(out: Tensor, target: Tensor) -> None:
    if target is not out:
        out.detach().copy_(target)


def _check_dtype(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _DTYPES:
        raise UsageError(
            f"Noise is written to float32, bfloat16, float16 or float64 tensors; {name} is {tensor.dtype}."
        )


def _check_pair(out: Tensor, base: Tensor, rounding: Noise | None) -> None:
    _check_dtype("out", out)
    if base is not out and (base.dtype != out.dtype or base.shape != out.shape or base.device != out.device):
        raise UsageError(
            f"base must match out, {out.dtype} of shape {tuple(out.shape)} on {out.device}; "
            f"found {base.dtype} of shape {tuple(base.shape)} on {base.device}."
        )
    if out.dtype in _HALF and rounding is None:
        raise UsageError(f"out is {out.dtype}, which is rounded stochastically: give rounding=Noise(...).")


def _check_operand(name: str, tensor: Tensor, out: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or tensor.device != out.device:
        raise UsageError(
            f"{name} must be {dtype} of shape {shape} on {out.device}; "
            f"found {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}."
        )


def _check_rows(rows: Tensor | None, num_rows: int, out: Tensor) -> None:
    if rows is None:
        return
    if rows.dtype != torch.int64 or rows.dim() != 1 or rows.device != out.device:
        raise UsageError(
            f"rows must be int64 of shape (R,) on {out.device}; "
            f"found {rows.dtype} of shape {tuple(rows.shape)} on {rows.device}."
        )
    # On an accelerator the indexing itself is checked, there; reading the extremes here would wait for the device.
    if rows.numel() and rows.device.type == "cpu":
        low, high = (int(extreme) for extreme in rows.aminmax())
        if low < 0 or high >= num_rows:
            raise UsageError(f"rows must lie in [0, {num_rows}); found {low if low < 0 else high}.")
