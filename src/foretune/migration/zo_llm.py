"""ZO-LLM, the benchmark: run.py of its zo-bench, and the ancestor of SubZero's and ZOBCD's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from foretune.migration.causal import CAUSAL_FLAGS, AbstractCausalCode, has_setting, set_first_order, set_weight_decay
from foretune.migration.flags import Flag, read, table
from foretune.migration.reading import Reading

_TRAINER = "ZO-LLM zo-bench/trainer.py"
_ZO_SGD = "--trainer=zo_sgd"

ZO_LLM_FLAGS: Mapping[str, Flag] = table(
    *CAUSAL_FLAGS.values(),
    read("optimizer", "--method, --update", reader="--trainer=regular, zo_sign_opt, zo_conserv or forward_grad"),
    read(
        "momentum",
        "--method zo_momentum, --method.momentum",
        float,
        reader="--trainer=zo_sgd, or --trainer=regular --optimizer=sgd",
    ),
    read("q", "--num-directions", int, reader="a zeroth-order trainer"),
    read("perturbation_mode", "--method.estimator", reader="a zeroth-order trainer"),
    read("template_ver", "--template", int),
    read("prompt_tuning", "--tuning prompt", bool),
    read("num_virtual_tokens", "--tuning.num_virtual_tokens", int, reader="--prompt_tuning"),
    read("prompt_init_by_real_tokens", "--tuning.init", bool, reader="--prompt_tuning"),
    read("gradient_sparsity", "--space masked --space.sparsity", float, reader="a zeroth-order trainer"),
    read("sparse_gradient_resample_steps", "--space.resample_interval", int, reader="--gradient_sparsity"),
    read("sparse_gradient_group", "--space.group", reader="--gradient_sparsity"),
    read("module_wise_perturbation", "--schedule module_blocks", bool, reader=_ZO_SGD),
    read("perturbed_module_level", "--schedule.level", reader="--module_wise_perturbation"),
    read("coordinate_perturbation", "--schedule.sequential", bool, reader="--module_wise_perturbation"),
)
"""Its flags: MeZO's and its own."""


def zo_sgd(reading: Reading) -> None:
    """``--trainer=zo_sgd``: MeZO or, with momentum, heavy ball; the optimizer is torch's SGD."""
    momentum = reading.get("momentum", 0.0)
    set_zo(reading, "zo_momentum" if momentum else "mezo")
    if momentum:
        reading.set("method.momentum", momentum)
    _read_blocks(reading)
    if reading.get("optimizer", "sgd") != "sgd":
        reading.note("ignored there", "optimizer", "zo_sgd steps with torch's SGD", _TRAINER)


def set_zo(reading: Reading, method: str) -> None:
    """Set a zeroth-order method with the settings that the benchmark's have in common."""
    reading.set("method.name", method)
    reading.set("zo_eps", reading.get("zo_eps", 1e-3))
    if decay := reading.get("weight_decay", 0.0):
        follow = f"; --method.weight_decay {decay:g} follows it" if has_setting(reading, "weight_decay") else ""
        text = f"the optimizers of zeroth-order trainers are made without it{follow}"
        reading.note("ignored there", "weight_decay", text, _TRAINER)
    directions = reading.get("q", 1)
    if directions != 1:
        reading.set("num_directions", directions)
    _read_sides(reading, directions)
    _read_sparsity(reading, directions)


def _read_sides(reading: Reading, directions: int) -> None:
    sides = reading.get("perturbation_mode", "two_side")
    estimator = reading.choose("perturbation_mode", sides, {"two_side": "two_sided", "one_side": "one_sided"})
    if estimator == "two_sided":
        return
    if not has_setting(reading, "estimator"):
        name = reading.options["method.name"]
        reading.note("no counterpart", "perturbation_mode", f"'{name}' takes two-sided differences here")
        return
    reading.set("method.estimator", estimator)
    if directions > 1:
        reading.note(
            "differs", "perturbation_mode", "the clean loss is computed again for every direction; here once", _TRAINER
        )


def _read_sparsity(reading: Reading, directions: int) -> None:
    if not (sparsity := reading.get("gradient_sparsity")):
        return
    reading.set("space.name", "masked")
    reading.set("space.sparsity", sparsity)
    reading.set("space.resample_interval", reading.get("sparse_gradient_resample_steps", 1))
    reading.set("space.group", reading.get("sparse_gradient_group", "layer"))
    reading.set("space.parity", True)
    reading.note(
        "differs",
        "gradient_sparsity",
        f"a normal draw is compared with {sparsity:g} there, so that the share Phi({sparsity:g}) of "
        "the entries rests; --space.parity keeps that, without it the share is the one asked for",
        _TRAINER,
    )
    if directions > 1:
        reading.note(
            "differs",
            "gradient_sparsity",
            "with q > 1 the update leaves the mask out, and moves weights that were not perturbed; here it has it",
            f"{_TRAINER} 1086 and 1251, against 732",
        )


def _read_blocks(reading: Reading) -> None:
    if not reading.get("module_wise_perturbation", False):
        return
    reading.set("schedule.name", "module_blocks")
    reading.set("schedule.level", reading.get("perturbed_module_level", "transformer-block"))
    reading.set("schedule.sequential", reading.get("coordinate_perturbation", True))
    reading.note(
        "differs",
        "module_wise_perturbation",
        "all blocks share one seed there, so that equal layers have equal directions, and unmatched tensors never "
        "train; here directions are independent and every tensor is in a block",
        f"{_TRAINER} 926-1000",
    )


def _zo_adam(reading: Reading) -> None:
    set_zo(reading, "zo_adam")
    if reading.get("optimizer", "adam") != "adam":
        reading.note("ignored there", "optimizer", "zo_adam steps with Adam", _TRAINER)


def _zo_sign(reading: Reading) -> None:
    set_zo(reading, "zo_sign")
    reading.set("method.sign_mode", "scalar")
    reading.note(
        "differs",
        "trainer",
        "the step is sign(g) z there, z with its magnitudes; --method.sign_mode elementwise is the paper's sign",
        f"{_TRAINER} 1058; arXiv:2402.11592",
    )
    _note_missing_optimizer(
        reading,
        "AdamW took the step on sign(g) z there; that run is --method mezo --method.weighting sign --update adam "
        "--update.decoupled true, without --method.sign_mode",
    )


def _zo_conserv(reading: Reading) -> None:
    set_zo(reading, "zo_conservative")
    if reading.get("gradient_sparsity"):
        reading.note("differs", "gradient_sparsity", "the trial steps leave the mask out; here they have it", _TRAINER)
    _note_missing_optimizer(
        reading,
        "AdamW made the trial steps there, which are then neither this step nor its opposite; nothing here is equal",
    )


def _note_missing_optimizer(reading: Reading, text: str) -> None:
    if reading.get("optimizer", "adamw") != "sgd":
        subject = "optimizer" if reading.has("optimizer") else "--optimizer"
        given = "" if reading.has("optimizer") else "it is not given (88 of the sweep files leave it out), so "
        reading.note("differs", subject, given + text, _TRAINER)


def _forward_grad(reading: Reading) -> None:
    reading.set("method.name", "forward_grad")
    set_weight_decay(reading)
    if (directions := reading.get("q", 1)) != 1:
        reading.set("num_directions", directions)
    if (optimizer := reading.get("optimizer", "sgd")) != "sgd":
        reading.set("update.name", reading.choose("optimizer", optimizer, {"adam": "adam", "adamw": "adam"}))
        if optimizer == "adamw":
            reading.set("update.decoupled", True)
    for flag in ("zo_eps", "perturbation_mode"):
        if reading.has(flag):
            reading.get(flag)
            reading.note("ignored there", flag, "the slope is exact: there is no perturbation", "ZO-LLM, forward_grad")


def _regular(reading: Reading) -> None:
    name = reading.get("optimizer", "adamw")
    set_first_order(reading, reading.choose("optimizer", name, {word: word for word in ("sgd", "adam", "adamw")}))
    if not reading.has("optimizer"):
        reading.note("differs", "--optimizer", "it is not given, so AdamW made the steps", "ZO-LLM run.py")
    if momentum := reading.get("momentum", 0.0):
        if name == "sgd":
            reading.set("method.momentum", momentum)
        else:
            reading.note("ignored there", "momentum", f"{name} has none")


TRAINERS: Mapping[str, Callable[[Reading], None]] = MappingProxyType(
    {
        "zo_sgd": zo_sgd,
        "zo_adam": _zo_adam,
        "zo_sign_opt": _zo_sign,
        "zo_conserv": _zo_conserv,
        "forward_grad": _forward_grad,
        "regular": _regular,
    }
)
"""What each trainer is here."""


class ZOLLM(AbstractCausalCode):
    """ZO-LLM's zo-bench.

    References:
        Zhang et al. 2024, arXiv:2402.11592.
    """

    key: ClassVar[str] = "zo-llm"
    title: ClassVar[str] = "ZO-LLM"
    flags: ClassVar[Mapping[str, Flag]] = ZO_LLM_FLAGS
    trainers: ClassVar[Mapping[str, Callable[[Reading], None]]] = TRAINERS
    mistaken_trainers: ClassVar[Mapping[str, str]] = MappingProxyType({"sgd": "--trainer=regular --optimizer=sgd"})
    schedule_ignored: ClassVar[str] = f"{_TRAINER} 318 and 1346"
