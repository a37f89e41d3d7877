"""What `pip install` brings: a wheel with every file of the package, the demo's model among them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_wheel_has_every_file_of_the_package(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="pyproject.toml asks for setuptools 77 to build")
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    expected = {path.relative_to(source / "src").as_posix() for path in (source / "src").rglob("*") if path.is_file()}
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", wheels, source], check=True, timeout=120)
    (wheel,) = wheels.glob("foretune-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert packed.keys() == expected
    model = "foretune/runs/demo/model/model.safetensors"
    assert packed[model] == (source / "src" / model).read_bytes()
    assert wheel.stat().st_size < 3_000_000
