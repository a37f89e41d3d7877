"""Where a noise tensor lives: run key, parameter stream, purpose and law.

Every element of every noise tensor is a pure function of these four and of its own index, so nothing has to
be drawn in order and nothing has to be stored. All numbers in this file are part of the noise version.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import operator
from dataclasses import dataclass

from foretune.errors import UsageError

_MASK64 = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: splitmix64's increment


class Law(enum.IntEnum):
    """Distribution of one element; both have mean 0 and variance 1."""

    GAUSSIAN = 0
    RADEMACHER = 1


class Purpose(enum.IntEnum):
    """What a noise tensor is for; different purposes never share bits."""

    DIRECTION = 0
    LEFT = 1
    RIGHT = 2
    MASK = 3
    SPLIT = 4
    PERTURBATION_ROUNDING = 5
    UPDATE_ROUNDING = 6
    BLOCK_ORDER = 7
    HISTORY = 8
    INITIAL = 9


@dataclass(frozen=True, slots=True)
class Noise:
    """The address of one noise tensor.

    Args:
        key: 64-bit key of the draw, from `mix`.
        stream: 32-bit number of the parameter, from `stream_id`.
        purpose: What the tensor is for.
        law: Distribution of its elements; raw 16-bit lanes and rounding bits do not depend on it.

    Raises:
        UsageError: `key` or `stream` is out of range.
    """

    key: int
    stream: int
    purpose: Purpose
    law: Law = Law.GAUSSIAN

    def __post_init__(self) -> None:
        if not 0 <= self.key <= _MASK64:
            raise UsageError(f"A noise key is an integer in [0, 2**64), from mix(); found {self.key}.")
        if not 0 <= self.stream < 1 << 32:
            raise UsageError(f"A noise stream is an integer in [0, 2**32), from stream_id(); found {self.stream}.")


@dataclass(frozen=True, slots=True)
class LowRankNoise:
    """A noise matrix ``A B^T / sqrt(rank)`` whose entries have mean 0 and variance 1, uncorrelated for every rank.

    A (m, rank) and B (n, rank) are Gaussian, with purposes LEFT and RIGHT at this key and stream.

    Raises:
        UsageError: `rank` is below 1.
    """

    key: int
    stream: int
    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"The rank of a low-rank noise matrix is at least 1; found {self.rank}.")

    @property
    def left(self) -> Noise:
        """Address of A^T, (rank, m) in row-major order."""
        return Noise(self.key, self.stream, Purpose.LEFT)

    @property
    def right(self) -> Noise:
        """Address of B^T, (rank, n) in row-major order."""
        return Noise(self.key, self.stream, Purpose.RIGHT)


@functools.lru_cache(typed=True)  # a basis of every tensor has the same key
def mix(seed: int, epoch: int, query: int = 0) -> int:
    """Return the 64-bit key of one draw.

        k = f(f(f(seed + γ) + (epoch + 1) γ) + (query + 1) γ)   modulo 2**64, f = the splitmix64 finaliser

    f is a bijection and γ is odd, so with two arguments fixed, different values of the third never share a
    key.

    Args:
        seed: The run's seed, any integer in [-2**63, 2**64); negative ones are taken modulo 2**64.
        epoch: Step of the run, or refresh epoch of a basis; at least 0.
        query: Number of the direction within the step; at least 0.

    Raises:
        UsageError: an argument is out of range.

    References:
        Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 17 (finaliser
        mix64variant13).
    """
    seed, epoch, query = operator.index(seed), operator.index(epoch), operator.index(query)
    if not -(1 << 63) <= seed <= _MASK64:
        raise UsageError(f"A seed is an integer in [-2**63, 2**64); found {seed}.")
    for name, value in (("epoch", epoch), ("query", query)):
        if not 0 <= value <= _MASK64:
            raise UsageError(f"The {name} of a noise key is an integer in [0, 2**64); found {value}.")
    key = _finalise(seed + _GOLDEN_GAMMA)
    key = _finalise(key + (epoch + 1) * _GOLDEN_GAMMA)
    return _finalise(key + (query + 1) * _GOLDEN_GAMMA)


def stream_id(name: str) -> int:
    """Return the 32-bit stream of a parameter's canonical `name`: its 4-byte BLAKE2s digest."""
    return int.from_bytes(hashlib.blake2s(name.encode("utf-8"), digest_size=4).digest(), "little")


def _finalise(x: int) -> int:
    x &= _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)
