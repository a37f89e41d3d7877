"""`foretune env`."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from foretune.errors import UsageError

_PACKAGES = ("foretune", "torch", "numba", "triton", "transformers", "peft", "accelerate", "datasets", "safetensors")


def run(arguments: Sequence[str]) -> None:
    """Print what a bug report needs."""
    if {"-h", "--help"} & set(arguments):
        print("usage: foretune env")
        return
    if arguments:
        raise UsageError(f"foretune env takes no options, got {arguments[0]!r}.")

    import torch

    from foretune import noise
    from foretune.cli.tables import print_table

    rows = [(package, _version(package)) for package in _PACKAGES]
    rows += [
        ("python", platform.python_version()),
        ("platform", platform.platform()),
        ("CPU threads", str(torch.get_num_threads())),
        ("CUDA devices", ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none"),
        ("noise", f"version {noise.VERSION}; numba on CPUs, triton on CUDA where installed, reference elsewhere"),
    ]
    print_table("Environment", ("what", "value"), rows)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
