"""Where, when and with what a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parent.parent
_NOT_LEDGERS = ":(top,exclude)benchmarks/results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What one needs to know about a measurement beside its settings.

    Attributes:
        date: In UTC, to the second.
        commit: What is checked out, by its first digits; empty where the package was installed without a checkout.
        dirty: 1 if tracked files differ from the commit, but for ledgers of measurements.
        machine: Model of the processor, or of the GPU.
        cores, threads: Of the machine, and those that PyTorch uses.
        python, torch, transformers, foretune: Versions.
    """

    date: str
    commit: str
    dirty: int
    machine: str
    cores: int
    threads: int
    python: str
    torch: str
    transformers: str
    foretune: str

    @classmethod
    def here(cls, device: torch.device | str = "cpu") -> Provenance:
        """Describe this machine, process and moment."""
        device = torch.device(device)
        return cls(
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            commit=current_commit(),
            dirty=int(is_dirty()),
            machine=torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_model(),
            cores=os.cpu_count() or 0,
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=version("torch"),
            transformers=version("transformers"),
            foretune=version("foretune"),
        )


def current_commit() -> str:
    """Return the commit of the checkout that the package is imported from, by its first digits; empty if none."""
    return _git("rev-parse", "--short", "HEAD") if _is_checkout() else ""


def is_dirty() -> bool:
    """Whether tracked files of that checkout differ from the commit, but for ledgers of measurements."""
    return _is_checkout() and bool(_git("status", "--porcelain", "--untracked-files=no", "--", ":/", _NOT_LEDGERS))


def _is_checkout() -> bool:
    """Whether the package lies in a repository of its own, and not in one that it was merely installed into."""
    root = _git("rev-parse", "--show-toplevel")
    return bool(root) and Path(root, "src", "foretune").resolve() == _PACKAGE


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=_PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or not a checkout
        return ""
    return result.stdout.strip()


def _cpu_model() -> str:
    """Return the processor's name; with family and model, for virtual ones of several generations share a name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().partition("\n\n")[0].splitlines() if cpuinfo.exists() else []
    facts = {name.strip(): " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    if "cpu family" not in facts:
        return facts["model name"]
    return f"{facts['model name']} (family {facts['cpu family']}, model {facts.get('model', '?')})"
