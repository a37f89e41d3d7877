"""ZOBCD-LoRA: ZO-LLM's run.py with block-coordinate descent on the factors of LoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from foretune.migration.causal import AbstractCausalCode
from foretune.migration.flags import Flag, read, table
from foretune.migration.reading import Reading
from foretune.migration.zo_llm import TRAINERS, ZO_LLM_FLAGS, set_zo, zo_sgd

_CODE = "ZOBCD trainer.py"
_SELECTIVE = "--selective"


def _zo_sgd(reading: Reading) -> None:
    blocks, selective = reading.get("lora_bcd", False), reading.get("selective", False)
    if not (blocks or selective):
        zo_sgd(reading)
        return
    flag = "lora_bcd" if blocks else "selective"
    if blocks and selective:
        raise reading.refuse("selective", "--lora_bcd has to be off with it; drop one of them.")
    if reading.options["tuning.name"] != "lora":
        raise reading.refuse(flag, "it moves the factors of LoRA; give --lora too.")
    if blocks:
        _read_blocks(reading)
    else:
        _read_selection(reading)
    if reading.get("perturbation_mode", "two_side") != "two_side":
        reading.note("ignored there", "perturbation_mode", "the one-sided form ends in a TypeError", _CODE)


def _read_blocks(reading: Reading) -> None:
    set_zo(reading, "zobcd")
    reading.set("method.preset", "code")
    reading.note(
        "differs",
        "lora_bcd",
        "B moves with lr and A with half of it, which is written (preset code); the supplement has 2 lr and lr",
        f"{_CODE}; supplement",
    )
    reading.note(
        "differs",
        "lora_bcd",
        "a cycle has 201 steps of B and 19 of A there, an error of one; here 200 and 20, or --method.bcd_steps_b 201 "
        "--method.bcd_steps_a 19",
        _CODE,
    )


def _read_selection(reading: Reading) -> None:
    set_zo(reading, "mgs_bcd")
    reading.set("method.selective_ratio", reading.get("selective_ratio", 0.5))
    if reading.get("bcd", False):
        reading.set("method.bcd", True)
    if reading.get("adaSelect", False):
        reading.set("method.adaselect", True)
    reading.note(
        "differs",
        "selective",
        "evaluations count there too, B's activations are of sums of A's, and later cycles have other lengths; here "
        "training alone counts, each factor by its own output, and all cycles are alike",
        f"{_CODE}; text, listing and code of the paper describe three algorithms",
    )


def _zo_sign(reading: Reading) -> None:
    set_zo(reading, "zo_sign")
    reading.note(
        "differs",
        "trainer",
        "the code has both sign(g) z and sign(g z), by branch; the paper's, of every entry, is written, the other is "
        "--method.sign_mode scalar",
        f"{_CODE} 906, 1040 and 1212",
    )
    reading.get("optimizer")


class ZOBCD(AbstractCausalCode):
    """ZOBCD-LoRA.

    References:
        "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass", 2025.
    """

    key: ClassVar[str] = "zobcd"
    title: ClassVar[str] = "ZOBCD"
    flags: ClassVar[Mapping[str, Flag]] = table(
        *ZO_LLM_FLAGS.values(),
        read("lora_bcd", "--method zobcd", bool, reader="--trainer=zo_sgd"),
        read("selective", "--method mgs_bcd", bool, reader="--trainer=zo_sgd"),
        read("selective_ratio", "--method.selective_ratio", float, reader=_SELECTIVE),
        read("bcd", "--method.bcd", bool, reader=_SELECTIVE),
        read("adaSelect", "--method.adaselect", bool, reader=_SELECTIVE),
    )
    trainers: ClassVar[Mapping[str, Callable[[Reading], None]]] = MappingProxyType(
        {**TRAINERS, "zo_sgd": _zo_sgd, "zo_sign_opt": _zo_sign}
    )
