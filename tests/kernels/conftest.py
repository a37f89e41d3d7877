"""Triton's interpreter has a process of its own, started by test_noise_triton.py."""

from noise_calls import INTERPRETED

collect_ignore = ["test_noise_triton.py"] if INTERPRETED else ["test_noise_interpreted.py"]
