"""The few-shot protocol of RoBERTa: run.py of MeZO's medium models, and LOZO's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from foretune.errors import UsageError
from foretune.migration.causal import (
    AbstractCode,
    read_lr_and_batch,
    read_task,
    set_first_order,
    set_method,
    set_setting,
)
from foretune.migration.flags import Flag, anyway, read, table, to, without
from foretune.migration.lozo import note_published_code
from foretune.migration.reading import Reading
from foretune.migration.training_arguments import TRAINING_ARGUMENTS, read_evaluations, read_schedule, read_steps

_MEDIUM = "MeZO medium_models"
_ZERO_ORDER = "--zero_order_optim"
_PROMPTS = "the templates and label words are those of the task"
_EVALUATION = "foretune evaluate has zero-shot, in-context and probing baselines"

MASKED_FLAGS: Mapping[str, Flag] = table(
    *TRAINING_ARGUMENTS.values(),
    to("max_seq_length", "max_length", int),
    to("data_dir", "data_dir"),
    read("model_name_or_path", "--model"),
    read("task_name", "--task"),
    read("num_k", "--shots", int),
    read("seed", "--seed and --train-set-seed", int),
    read("few_shot_type", "as foretune does"),
    read("zero_order_optim", "--method mezo", bool),
    read("zero_order_eps", "--zo-eps", float, reader=_ZERO_ORDER),
    read("efficient_zero_order", "as foretune does", bool, reader=_ZERO_ORDER),
    read("efficient_zero_order_fp16", "--dtype float16", bool, reader=_ZERO_ORDER),
    read("zero_order_use_trainer_optim", "--method zo_adam", bool, reader=_ZERO_ORDER),
    read("zero_order_sample", "--num-directions", int, reader=_ZERO_ORDER),
    read("zero_order_sample_scheduler", "--method.ramp_steps", reader=_ZERO_ORDER),
    read("scale_lr_with_samples", "--method.weighting sum", bool, reader=_ZERO_ORDER),
    read("zero_order_clip_grad", "--method.max_grad_norm", bool, reader=_ZERO_ORDER),
    read("zo_by_layer", "--schedule module_blocks", bool, reader=_ZERO_ORDER),
    read("zo_variant", "--schedule norm_scaled", reader=_ZERO_ORDER),
    read("change_grad_estimate", "--schedule.form", bool, reader="--zo_variant"),
    read("recompute_norms", "--schedule.interval", bool, reader="--zo_variant"),
    read("scale_norm_by_num_params", "--schedule.scale_by_num_params", bool, reader="--zo_variant"),
    read("norm_running_update", "none", bool, reader="--zo_variant"),
    read("optimize_acc", "--objective accuracy", bool, reader=_ZERO_ORDER),
    read("optimizer", "--method"),
    read("apply_lora", "--tuning lora", bool),
    read("lora_r", "--tuning.r", int, reader="--apply_lora"),
    read("lora_alpha", "--tuning.alpha", int, reader="--apply_lora"),
    read("prefix_tuning", "none: virtual tokens need a causal model", bool),
    read("num_prefix", "none", int, reader="--prefix_tuning"),
    read("no_reparam", "none", bool, reader="--prefix_tuning"),
    read("prefix_init_by_real_act", "none", bool, reader="--prefix_tuning"),
    read("head_tuning", "none", bool),
    anyway("trainer", "standard", lacks="kernels and linear heads have no counterpart"),
    anyway("linear_probing", False, lacks=_EVALUATION),
    anyway("sfc", False, lacks=_EVALUATION),
    anyway("icl_sfc", False, lacks=_EVALUATION),
    anyway("random_model_init", False, lacks="a model starts from its checkpoint"),
    anyway("use_full_length", True, False, lacks="--max-length says how much of a text is read"),
    anyway("tie_emb", True, False, lacks="embedding and head are tied as the checkpoint has them"),
    anyway("untie_emb", False, lacks="embedding and head are tied as the checkpoint has them"),
    anyway("save_at_last", False, lacks="the final model is that of the best dev accuracy"),
    anyway("overwrite_cache", True, False, lacks="nothing is cached"),
    anyway("num_sample", 1, 16, lacks="no demonstrations are put in front of a row in training"),
    without("template", _PROMPTS),
    without("mapping", _PROMPTS),
    without("first_sent_limit", "sentences are cut where a text is too long, never the template"),
    without("other_sent_limit", "sentences are cut where a text is too long, never the template"),
    without("tag", "the name of a run is that of its folder"),
    without("log_file", "results stand in results.json of the run's folder"),
)
"""Flags of the few-shot protocol."""


class AbstractMaskedCode(AbstractCode):
    """A script of the few-shot protocol."""

    def translate(self, reading: Reading) -> Literal["train"]:
        """As `AbstractCode.translate`."""
        task = read_task(reading, self.title)
        if task.masked is None:
            raise reading.refuse("task_name", f"task {task.name!r} has no prompt for masked models; the others do.")
        reading.set("task", task.name)
        if (model := reading.get("model_name_or_path")) is None:
            raise UsageError(
                f"--model_name_or_path is missing: {self.title} has to be told which model, so has foretune."
            )
        reading.set("model", model)
        _read_rows(reading)
        _read_tuning(reading)
        if (kind := reading.get("few_shot_type", "prompt")) != "prompt":
            raise reading.refuse("few_shot_type", f"{kind!r} has no counterpart; rows are read with the task's prompt.")
        half = reading.get("efficient_zero_order_fp16", False)
        reading.set("dtype", "float16" if half else "float32")
        zeroth_order = reading.get("zero_order_optim", False)
        read_lr_and_batch(reading, batch_size=64 if zeroth_order else 8)
        published = 100_000 if zeroth_order else 1000
        read_steps(reading, published=published, rows=None)
        steps = "max_steps" if reading.has("max_steps") else "--max_steps"
        reading.note("differs", steps, "the run makes one step more there", _MEDIUM)
        if zeroth_order:
            self._set_method(reading)
            if reading.get("optimize_acc", False):
                reading.set("objective", "accuracy")
        else:
            optimizer = reading.get("optimizer", "adam")
            set_first_order(
                reading, reading.choose("optimizer", optimizer, {word: word for word in ("sgd", "adam", "adamw")})
            )
        read_evaluations(reading, published=max(1, published // 10))
        efficient = reading.get("efficient_zero_order", False)
        read_schedule(reading, ignored=f"{_MEDIUM}, efficient_zero_order" if zeroth_order and efficient else "")
        return "train"

    @abstractmethod
    def _set_method(self, reading: Reading) -> None:
        """Set the zeroth-order method and its settings."""


class MeZOMasked(AbstractMaskedCode):
    """MeZO, medium models.

    References:
        Malladi et al. 2023, arXiv:2305.17333.
    """

    key: ClassVar[str] = "mezo-roberta"
    title: ClassVar[str] = "MeZO's RoBERTa code"
    flags: ClassVar[Mapping[str, Flag]] = MASKED_FLAGS

    def _set_method(self, reading: Reading) -> None:
        _set_mezo(reading)


class LOZOMasked(AbstractMaskedCode):
    """LOZO and LOZO-M, medium models.

    References:
        Chen et al. 2024, arXiv:2410.07698.
    """

    key: ClassVar[str] = "lozo-roberta"
    title: ClassVar[str] = "LOZO's RoBERTa code"
    flags: ClassVar[Mapping[str, Flag]] = table(
        *MASKED_FLAGS.values(),
        read("rank", "--method.rank", int, reader=_ZERO_ORDER),
        read("step_interval", "--method.interval", int, reader=_ZERO_ORDER),
        read("lozo_optimizer", "--method lozo or lozo_m", reader=_ZERO_ORDER),
        read("beta1", "--method.beta", float, reader="--lozo_optimizer=sgdm"),
    )

    def _set_method(self, reading: Reading) -> None:
        method = reading.choose(
            "lozo_optimizer", reading.get("lozo_optimizer", "sgd"), {"sgd": "lozo", "sgdm": "lozo_m"}
        )
        set_method(reading, method)
        reading.set("zo_eps", reading.get("zero_order_eps", 1e-3))
        reading.set("method.rank", reading.get("rank", 2))
        reading.set("method.interval", interval := reading.get("step_interval", 50))
        note_published_code(reading)

        if method == "lozo_m":
            reading.set("method.beta", reading.get("beta1", 0.7))
            text = "an interval of 1 switches momentum off there; here it goes on"
            if interval == 1:
                reading.note("differs", "step_interval", text, "LOZO medium_models")
        for flag, harmless in (("zero_order_use_trainer_optim", False), ("optimizer", "sgd")):
            if reading.get(flag, harmless) != harmless:
                reading.note("no counterpart", flag, "the step is that of --lozo_optimizer")


def _read_rows(reading: Reading) -> None:
    """Set the rows of each class, and the seed that is the draw's and the run's."""
    reading.set("shots", reading.get_or_assume("num_k", 16))
    seed = reading.get_or_assume("seed", 42)
    reading.set("train_set_seed", seed)
    reading.set("seed", seed)
    if reading.has("data_dir"):
        reading.note(
            "differs",
            "data_dir",
            "there a folder for each draw of the LM-BFF pack; here <task>/{train,validation}.jsonl in the hub's "
            "schema, whose rows have another order, drawn by --shots and --train-set-seed",
        )


def _read_tuning(reading: Reading) -> None:
    """Set what is tuned: everything, or LoRA."""
    if reading.get("prefix_tuning", False):
        raise reading.refuse(
            "prefix_tuning", "virtual tokens need a causal model here; use full tuning or --apply_lora."
        )
    if reading.get("head_tuning", False):
        raise reading.refuse("head_tuning", "a masked model is tuned in full or with --apply_lora here.")
    lora = reading.get("apply_lora", False)
    reading.set("tuning.name", "lora" if lora else "full")
    if lora:
        reading.set("tuning.r", reading.get("lora_r", 8))
        reading.set("tuning.alpha", reading.get("lora_alpha", 16))


def _set_mezo(reading: Reading) -> None:
    optimizer = reading.get("optimizer", "adam" if reading.get("zero_order_use_trainer_optim", False) else "sgd")
    adam = reading.choose("optimizer", optimizer, {"sgd": False, "adam": True})
    if adam and not reading.get("zero_order_use_trainer_optim", False):
        adam = False
        reading.note("ignored there", "optimizer", "it steps with --zero_order_use_trainer_optim only", _MEDIUM)
    set_method(reading, "zo_adam" if adam else "mezo")
    reading.set("zo_eps", reading.get("zero_order_eps", 1e-3))
    _read_samples(reading)
    if reading.get("efficient_zero_order", False) and "method.weight_decay" in reading.options:
        text = "it shrinks every tensor there; here matrices alone"
        reading.note("differs", "weight_decay", text, f"{_MEDIUM}, efficient_zero_order")
    if reading.get("zero_order_clip_grad", False):
        set_setting(reading, "zero_order_clip_grad", "max_grad_norm", reading.get("max_grad_norm", 1.0))
    if reading.get("zo_by_layer", False):
        reading.set("schedule.name", "module_blocks")
        reading.set("schedule.level", "transformer-block")
        reading.set("schedule.sequential", False)
    _read_variant(reading)


def _read_samples(reading: Reading) -> None:
    """Set the number of directions, which the code counts only where a scheduler is set."""
    samples, scheduler = reading.get("zero_order_sample", 1), reading.get("zero_order_sample_scheduler")
    if scheduler is None:
        if samples != 1:
            reading.note(
                "ignored there",
                "zero_order_sample",
                f"it counts with --zero_order_sample_scheduler only; --num-directions {samples} follows it",
                _MEDIUM,
            )
        return
    reading.choose("zero_order_sample_scheduler", scheduler, {"linear": 0, "constant": 0})
    reading.set("num_directions", samples)
    if scheduler == "linear":
        set_setting(reading, "zero_order_sample_scheduler", "ramp_steps", reading.options["steps"])
    if reading.get("scale_lr_with_samples", False):
        set_setting(reading, "scale_lr_with_samples", "weighting", "sum")


def _read_variant(reading: Reading) -> None:
    """Set variance- or expectation-modified SPSA."""
    if (variant := reading.get("zo_variant")) is None:
        return
    if variant != "param_norm":
        raise reading.refuse("zo_variant", "foretune divides by the norms of the weights only: param_norm.")
    reading.set("schedule.name", "norm_scaled")
    reading.set("schedule.form", "expectation" if reading.get("change_grad_estimate", False) else "variance")
    if reading.get("recompute_norms", False):
        reading.set("schedule.interval", 1)
    if reading.get("norm_running_update", False):
        reading.note("no counterpart", "norm_running_update", "norms are those of the weights, taken anew or kept")
    if reading.get("scale_norm_by_num_params", False):
        reading.set("schedule.scale_by_num_params", True)
        text = "there the norm is divided by the root of itself; here by the root of how many parameters there are"
        reading.note("differs", "scale_norm_by_num_params", text, _MEDIUM)
