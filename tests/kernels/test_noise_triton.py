"""The Triton kernels: their bits in Triton's interpreter, and what Triton compiles from them for GPUs, none needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foretune.errors import UsageError
from foretune.noise import LaneMask, Law, MagnitudeMask, add, add_low_rank, fill, use_backend
from noise_calls import DTYPES, ROUNDING, address

triton = pytest.importorskip("triton", reason="Triton is not installed: `make test-triton`, or the extra foretune[gpu]")

TESTS = Path(__file__).parents[1]
HALF = [torch.bfloat16, torch.float16]
KERNELS = ("_fill", "_add", "_add_low_rank")


def test_the_bits_in_the_interpreter():
    """In a process of its own: TRITON_INTERPRET has to be set before the kernels are defined."""
    files = ["kernels/test_noise_interpreted.py", "golden/noise/test_golden_noise.py", "unit/noise/test_ops.py"]
    chosen = "(interpreted or triton) and not uncorrelated"  # the last draws millions of elements
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    command += [str(TESTS / file) for file in files]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5_000:] + result.stderr[-2_000:]
    assert " passed" in result.stdout
    assert " skipped" not in result.stdout


class DriverOf:
    """A driver without a device: Triton compiles for its architecture and launches nothing."""

    def __init__(self, architecture):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch  # Triton keeps one cache of kernels for each device

    def get_current_stream(self, device):
        return 0


class Compiler:
    """Takes the place of a kernel: a launch compiles it and notes what came out."""

    def __init__(self, kernel, compiled):
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.compiled.append(self.kernel.warmup(*args, grid=grid, **kwargs))


@pytest.fixture
def compiled(request, monkeypatch, tmp_path):
    """The list of what calls of the backend compile, for compute capability 9.0 or the one a test asks for."""
    from foretune.noise import gpu_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    results = []
    for name in KERNELS:
        monkeypatch.setattr(gpu_triton, name, Compiler(getattr(gpu_triton, name), results))
    monkeypatch.setattr(triton.runtime.driver, "_active", DriverOf(getattr(request, "param", 90)))
    with use_backend("triton"):
        yield results


def run_all(dtype, rows=64, columns=128):
    """Call each kernel in every way that compiles another one, all options together and none."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    out, dense = torch.zeros(rows, columns, dtype=dtype), torch.zeros(rows, columns, dtype=compute)
    terms = [(0.1, address(1)), (0.2, address(2, Law.RADEMACHER))]
    fill(out, address(1))
    add(out, out, noise=terms, rounding=ROUNDING)
    for mask in (LaneMask(address(3), 1, 2), MagnitudeMask(1.0)):
        add(out, out, scale=0.5, noise=terms, dense=(0.1, dense), rounding=ROUNDING, rows=torch.arange(4), mask=mask)
    add_low_rank(out, out, dense.new_zeros(rows, 3), dense.new_zeros(columns, 3), rounding=ROUNDING)


@pytest.mark.parametrize(
    ("compiled", "dtype", "columns"),
    [*((90, dtype, 128) for dtype in DTYPES), (80, torch.bfloat16, 131), (80, torch.float32, 1)],
    indirect=["compiled"],
)
def test_no_product_is_fused_and_no_subnormal_is_flushed(compiled, dtype, columns):
    run_all(dtype, columns=columns)
    assert len(compiled) == 5
    for kernel in compiled:
        code = kernel.asm["ptx"]
        assert not re.search(r"\bfma\b|\bmad\.f|\.ftz", code)
        assert "cubin" in kernel.asm  # ptxas took it
        assert kernel.metadata.enable_fp_fusion is False  # it was told --fmad=false
    assert re.search(r"mul\.(rn\.)?f(32|64)", compiled[1].asm["ptx"])


def test_fusing_would_show(compiled, monkeypatch):
    from foretune.noise import gpu_triton

    monkeypatch.setitem(gpu_triton._OPTIONS, "enable_fp_fusion", True)
    out = torch.zeros(64, 128)
    add(out, out, noise=[(0.1, address(1))])
    assert re.search(r"\bfma\.rn\.f32", compiled[0].asm["ptx"])


@pytest.mark.parametrize("dtype", HALF)
def test_an_octet_costs_one_philox_and_one_wide_access(compiled, dtype):
    """Ten rounds of two 32-bit products, for each of the two laws and for the rounding."""
    out = torch.zeros(64, 128, dtype=dtype)
    add(out, out, noise=[(0.1, address(1))], rounding=ROUNDING)
    code = compiled[0].asm["ptx"]
    assert len(re.findall(r"mul\.hi\.u32|mul\.wide\.u32", code)) <= 3 * 20
    assert re.findall(r"st\.global\S*", code) == ["st.global.v4.b32"]  # 16 bytes, the whole octet


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_step_compiles_nothing(compiled, dtype):
    out = torch.zeros(64, 128, dtype=dtype)
    coefficients = [1.0, 1e-3, -7.0, 1e30]
    for step, coefficient in enumerate(coefficients):
        terms = [(coefficient, address(step))] * (step + 1)
        mask = LaneMask(address(step), step, 1 + 1_000 * step)
        add(out, out, scale=1 - coefficient, noise=terms, rounding=ROUNDING, mask=mask)
    for num_rows in (1, 2, 16):
        add(out, out, rows=torch.arange(num_rows), noise=[(0.1, address(1))], rounding=ROUNDING)
    for rank in (1, 2, 16):
        factor = torch.zeros(rank, 128, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        add_low_rank(out, out, factor[:, :64].t(), factor.t(), scale=0.1 * rank, rounding=ROUNDING)
    hashes = [kernel.hash for kernel in compiled]
    assert [len(set(part)) for part in (hashes[:4], hashes[4:7], hashes[7:])] == [1, 1, 1]


def test_a_row_outside_of_the_tensor_stops_the_kernel(compiled):
    """It cannot be seen here that it does; that the check is compiled can."""
    out = torch.zeros(64, 128)
    add(out, out, noise=[(0.1, address(1))], rows=torch.arange(4))
    add(out, out, noise=[(0.1, address(1))])
    assert "__assertfail" in compiled[0].asm["ptx"]
    assert "__assertfail" not in compiled[1].asm["ptx"]


def test_cpu_tensors_are_refused_outside_of_the_interpreter():
    with use_backend("triton"), pytest.raises(UsageError, match="writes to CUDA tensors; out is on cpu"):
        fill(torch.empty(8), address(1))
