"""SubZero and its fork with ZO-AdaMU, SubZO-AdaMU and Muon: ZO-LLM's run.py with methods in random subspaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from foretune.migration.causal import AbstractCausalCode, set_first_order
from foretune.migration.flags import Flag, read, table, without
from foretune.migration.reading import Reading
from foretune.migration.zo_llm import TRAINERS, ZO_LLM_FLAGS, set_zo

_SUBSPACE = "--trainer=subzero_sgd, subzero_adamu or subzo_muon"
_ADAMU = "--trainer=zo_adamu, subzero_adamu or subzo_muon"
_FORK = "SubZero's fork"
_FIRST_ORDER = "first-order training in subspaces has no counterpart"
_ANNEALING = {
    "zo_adamu_T1": "t1",
    "zo_adamu_T2": "t2",
    "zo_adamu_T3": "t3",
    "zo_adamu_alpha_target": "alpha_target",
    "zo_adamu_beta1_target": "beta1_target",
}
"""Settings of the annealing that all methods with a momentum-guided direction have."""
_UNCERTAINTY = {"zo_adamu_beta2_target": "beta2_target", "zo_adamu_sigma": "sigma"}
"""Settings of the step's denominator."""


def _set_subspace(reading: Reading, method: str) -> None:
    set_zo(reading, method)
    reading.set("method.rank", reading.get("gauss_rank", 8))
    reading.set("method.interval", reading.get("update_interval", 2000))
    if reading.get("momentum", 0.0):
        reading.note("no counterpart", "momentum", f"'{method}' has none; --update momentum averages in the subspace")


def _subzero(reading: Reading) -> None:
    _set_subspace(reading, "subzero")


def _subzero_adamu(reading: Reading) -> None:
    _set_subspace(reading, "subzero_adamu")
    _read_annealing(reading)
    for flag in _UNCERTAINTY:
        if reading.has(flag):
            reading.get(flag)
            reading.note("ignored there", flag, "the step is not divided; --method.v_mode core does that", _FORK)


def _subzo_muon(reading: Reading) -> None:
    _set_subspace(reading, "subzero_muon")
    _read_annealing(reading)
    for flag in _UNCERTAINTY:
        if reading.has(flag):
            reading.get(flag)
            reading.note("ignored there", flag, "the step is not divided", _FORK)


def _zo_adamu(reading: Reading) -> None:
    set_zo(reading, "zo_adamu")
    _read_annealing(reading)
    for flag, setting in _UNCERTAINTY.items():
        if (value := reading.get(flag)) is not None:
            reading.set(f"method.{setting}", value)
    reading.note("differs", "ZO-AdaMU", "sigma is added outside of the root there, here inside as in the paper", _FORK)
    if reading.get("momentum", 0.0):
        reading.note("ignored there", "momentum", "the momentum of ZO-AdaMU is in its directions", _FORK)


def _read_annealing(reading: Reading) -> None:
    for flag, setting in _ANNEALING.items():
        value = reading.get(flag)
        if value == 0 and flag == "zo_adamu_T1":
            reading.note(
                "ignored there", flag, "0 counts as not given, a quarter of the run; --method.t1 0 follows it", _FORK
            )
        elif value is not None:
            reading.set(f"method.{setting}", value)
    reading.note(
        "differs",
        "ZO-AdaMU",
        "the annealing jumps to its targets at T1, back to 1, and oscillates until T2; here it falls without a jump",
        f"{_FORK}; arXiv:2312.15184, Eq. 7, whose numerator should be t - T1",
    )
    if reading.options["method.name"] != "zo_adamu" and reading.get("zo_adamu_T2") is None:
        reading.note("differs", "--zo_adamu_T2", "it has two defaults there, 0.4 and 0.5 of the run; here 0.5", _FORK)


def _zo_muon(reading: Reading) -> None:
    set_zo(reading, "zo_muon")
    reading.note(
        "differs",
        "trainer",
        "this is the fork's, Muon on MeZO's estimate in the full space; the paper's is --method.muon_space subspace",
        f"{_FORK}; arXiv:2602.17155",
    )
    if reading.get("momentum", 0.0):
        reading.note("ignored there", "momentum", "Muon averages with 0.95, --method.beta", _FORK)


def _sgd(reading: Reading) -> None:
    set_first_order(reading, "sgd")
    if momentum := reading.get("momentum", 0.0):
        reading.set("method.momentum", momentum)


def _first_order_subspace(reading: Reading) -> None:
    raise reading.refuse(
        "trainer", f"{_FIRST_ORDER} here; use --trainer=sgd or regular, or the zeroth-order subzero_sgd."
    )


class SubZero(AbstractCausalCode):
    """SubZero, and its fork.

    References:
        Yu et al. 2024, arXiv:2410.08989.
    """

    key: ClassVar[str] = "subzero"
    title: ClassVar[str] = "SubZero"
    flags: ClassVar[Mapping[str, Flag]] = table(
        *ZO_LLM_FLAGS.values(),
        read("gauss_rank", "--method.rank", int, reader=_SUBSPACE),
        read("update_interval", "--method.interval", int, reader=_SUBSPACE),
        *(
            read(name, f"--method.{setting}", int if setting in ("t1", "t2", "t3") else float, reader=_ADAMU)
            for name, setting in (*_ANNEALING.items(), *_UNCERTAINTY.items())
        ),
        without(
            "dolly_data_path", "the original loads the hub's rows whatever it says; --data-dir DIR reads DIR/dolly"
        ),
        *(without(f"submuon_{name}", _FIRST_ORDER) for name in ("beta", "lambda", "ns_steps")),
        *(without(f"subadam_{name}", _FIRST_ORDER) for name in ("beta1", "beta2", "eps", "bias_correction")),
    )
    trainers: ClassVar[Mapping[str, Callable[[Reading], None]]] = MappingProxyType(
        {
            **TRAINERS,
            "sgd": _sgd,
            "subzero_sgd": _subzero,
            "subzero_adamu": _subzero_adamu,
            "subzo_muon": _subzo_muon,
            "zo_adamu": _zo_adamu,
            "zo_muon": _zo_muon,
            **dict.fromkeys(("subsgd", "subadam", "submuon"), _first_order_subspace),
        }
    )
