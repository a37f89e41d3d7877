"""What the published scripts for OPT, LLaMA and the like have in common: MeZO's run.py, from which the others came."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from foretune.errors import UsageError
from foretune.methods import RECIPES
from foretune.migration.flags import Flag, anyway, read, table, to, without
from foretune.migration.reading import Reading
from foretune.migration.training_arguments import TRAINING_ARGUMENTS, read_evaluations, read_schedule, read_steps
from foretune.tasks import GenerationTask, Task, get_task

_GREEDY = "texts are generated greedily"
_ZERO_SHOT = "in-context learning and zero-shot runs"

CAUSAL_FLAGS: Mapping[str, Flag] = table(
    *TRAINING_ARGUMENTS.values(),
    to("model_name", "model"),
    to("train_set_seed", "train_set_seed", int),
    to("max_length", "max_length", int),
    to("num_eval", "num_eval", int),
    read("task_name", "--task"),
    read("trainer", "--method"),
    read("num_train", "--num-train, --demonstrations", int),
    read("num_dev", "--num-dev", int),
    read("num_train_sets", "--demonstration-sets", int, reader=_ZERO_SHOT),
    read("load_float16", "--dtype float16", bool),
    read("load_bfloat16", "--dtype bfloat16", bool),
    read("train_as_classification", "--objective classification, without it lm", bool),
    read("non_diff", "--objective f1", bool),
    read("zo_eps", "--zo-eps", float, reader="a zeroth-order trainer"),
    read("lora", "--tuning lora", bool),
    read("lora_r", "--tuning.r", int, reader="--lora"),
    read("lora_alpha", "--tuning.alpha", int, reader="--lora"),
    read("prefix_tuning", "--tuning prefix", bool),
    read("num_prefix", "--tuning.num_virtual_tokens", int, reader="--prefix_tuning"),
    read("no_reparam", "as foretune does", bool, reader="--prefix_tuning"),
    read("prefix_init_by_real_act", "--tuning.init", bool, reader="--prefix_tuning"),
    read("head_tuning", "evaluate --baseline head_tuning", bool),
    read("linear_probing", "evaluate --baseline linear_probe", bool),
    read("lp_early_stopping", "none", bool, reader="--linear_probing"),
    read("sfc", "evaluate --calibration sfc", bool, reader=_ZERO_SHOT),
    read("icl_sfc", "evaluate --calibration icl_sfc", bool, reader=_ZERO_SHOT),
    read("max_new_tokens", "as the task says", int, reader="tasks that generate text"),
    anyway(
        "only_train_option", True, lacks="the loss is that of the option's tokens; with --completion, of all of a text"
    ),
    anyway("untie_emb", False, lacks="a tied head stays tied"),
    anyway("load_int8", False, lacks="quantized weights cannot be tuned here"),
    anyway("no_auto_device", True, False, lacks="foretune runs on one device"),
    anyway("sampling", False, lacks=_GREEDY),
    anyway("temperature", 1.0, lacks=_GREEDY),
    anyway("num_beams", 1, lacks=_GREEDY),
    anyway("eos_token", "\n", "\\n", lacks="a text ends with its line"),
    anyway("save_model", True, False, lacks="the final model is saved anyway"),
    anyway("no_eval", False, lacks="the test rows are scored at the end"),
    anyway("verbose", True, False, lacks="foretune tasks NAME --model MODEL shows a row as the model reads it"),
    anyway("save_on_interrupt", True, False, lacks="an interrupted run goes on with --resume"),
    without("tag", "the name of a run is that of its folder"),
    without("result_file", "results stand in results.json of the run's folder; foretune evaluate has --output"),
    anyway("top_k", 50, lacks=_GREEDY),
    anyway("top_p", 0.95, lacks=_GREEDY),
)
"""Flags of the common ancestor."""


class AbstractCode(ABC):
    """A research code: its flags, and what they mean together.

    Attributes:
        key: Its name for ``--code``.
        title: Its name for people.
        flags: The flags it knows.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    flags: ClassVar[Mapping[str, Flag]]

    @abstractmethod
    def translate(self, reading: Reading) -> Literal["train", "evaluate"]:
        """Set the options for the flags that are read together; the others follow by their table.

        Returns:
            The command of foretune that the options are for.
        Raises:
            UsageError: a value nothing here is equal to; the message names it and what would be right.
        """


class AbstractCausalCode(AbstractCode):
    """A script for causal language models.

    Attributes:
        trainers: What each value of ``--trainer`` but none becomes.
        mistaken_trainers: What to write instead of values that published files have by mistake.
        schedule_ignored: Where the code shows that learning-rate schedules reach no update; empty where they do.
    """

    trainers: ClassVar[Mapping[str, Callable[[Reading], None]]]
    mistaken_trainers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    schedule_ignored: ClassVar[str] = ""

    def translate(self, reading: Reading) -> Literal["train", "evaluate"]:
        """As `AbstractCode.translate`."""
        task = read_task(reading, self.title)
        if not reading.has("model_name"):
            raise UsageError(f"--model_name is missing: {self.title} has to be told which model, so has foretune.")
        reading.set("model", reading.get("model_name"))
        reading.set("task", task.name)
        read_dtype(reading)
        self._read_template(reading, task)
        trainer = reading.get("trainer", "none")
        if reading.get("linear_probing", False) or trainer == "none":
            return read_evaluation(reading)
        if trainer in self.mistaken_trainers:
            raise reading.refuse("trainer", f"there is no such trainer; write {self.mistaken_trainers[trainer]}.")
        method = reading.choose("trainer", trainer, self.trainers)
        if reading.get("head_tuning", False):
            return self._read_head_tuning(reading, trainer)
        read_rows(reading, task)
        read_objective(reading, task)
        read_tuning(reading)
        first_order = trainer in FIRST_ORDER
        read_lr_and_batch(reading, batch_size=8 if first_order else 16)
        if first_order and not reading.has("max_steps") and not reading.has("num_train_epochs"):
            published = 5 * -(-reading.options["num_train"] // reading.options["batch_size"])
        else:
            published = 20_000
        read_steps(reading, published=published, rows=reading.options["num_train"])
        method(reading)
        read_evaluations(reading, published=4000)
        read_schedule(reading, ignored="" if first_order else self.schedule_ignored)
        read_max_new_tokens(reading, task)
        return "train"

    def _read_template(self, reading: Reading, task: Task) -> None:
        if "template_ver" not in self.flags:
            return
        template = f"v{reading.get('template_ver', 0)}"
        if template == task.default_template:
            return
        if template not in task.templates:
            known = ", ".join(sorted(task.templates))
            raise reading.refuse("template_ver", f"task {task.name!r} has no such prompt here; it has {known}.")
        reading.set("template", template)

    def _read_head_tuning(self, reading: Reading, trainer: str) -> Literal["evaluate"]:
        if trainer not in FIRST_ORDER:
            raise reading.refuse(
                "head_tuning",
                "foretune tunes the head alone with Adam only: --trainer=regular, which is foretune evaluate "
                "--baseline head_tuning. Zeroth-order methods tune full, lora, prefix or prompt.",
            )
        reading.set("baseline", "head_tuning")
        read_lr_and_batch(reading, batch_size=8)
        if reading.has("num_train"):
            reading.set("num_train", reading.get("num_train"))
        read_steps(reading, published=625, rows=reading.options.get("num_train"))
        for name in ("num_dev", "train_as_classification", "eval_steps", "save_steps", "lr_scheduler_type"):
            reading.get(name)
        return "evaluate"


FIRST_ORDER = ("regular", "sgd")
"""Trainers that backpropagate."""


def read_task(reading: Reading, code: str) -> Task:
    """Return the task of a command.

    Raises:
        UsageError: none, or one that foretune does not have; near misses are suggested.
    """
    name = reading.get("task_name")
    if name is None:
        raise UsageError(f"--task_name is missing: {code} has to be told which task, so has foretune.")
    try:
        return get_task(name)
    except UsageError:
        return get_task(name.lower().replace("-", "").replace("_", ""))


def read_dtype(reading: Reading) -> None:
    """Set the dtype of the weights, float32 where nothing else is asked for."""
    if reading.get("load_float16", False):
        reading.set("dtype", "float16")
    elif reading.get("load_bfloat16", False):
        reading.set("dtype", "bfloat16")
    else:
        reading.set("dtype", "float32")


def read_rows(reading: Reading, task: Task) -> None:
    """Set the numbers of rows."""
    for name in ("num_train", "num_dev"):
        reading.set(name, reading.get_or_assume(name, getattr(task, name)))
    if not reading.has("num_dev"):
        text = "without it the model is chosen on the rows it is tested on there"
        reading.note("differs", "--num_dev", text, "MeZO run.py 493, ZO-LLM run.py 679")
    if not reading.has("num_eval"):
        reading.set("num_eval", reading.get_or_assume("num_eval", task.num_eval))


def read_objective(reading: Reading, task: Task) -> None:
    """Set the objective where it is not the task's own."""
    classification = reading.get("train_as_classification", False)
    is_text = isinstance(task, GenerationTask)
    if reading.get("non_diff", False):
        if not is_text:
            raise reading.refuse(
                "non_diff",
                f"it is the F1 of generated texts, and task {task.name!r} chooses among candidates; for foretune train "
                "that is --objective accuracy.",
            )
        reading.set("objective", "f1")
    elif classification and is_text:
        raise reading.refuse(
            "train_as_classification",
            f"task {task.name!r} is answered by free text and has no candidates; leave it out.",
        )
    elif (wanted := "classification" if classification else "lm") != task.objective:
        reading.set("objective", wanted)
        if not classification:
            text = (
                "without it the loss is that of the right option alone; "
                f"published runs of {task.name} have it, and so has foretune by default"
            )
            reading.note("differs", "--train_as_classification", text)


def read_tuning(reading: Reading) -> None:
    """Set what is tuned, and how."""
    schemes = {"lora": "lora", "prefix_tuning": "prefix", "prompt_tuning": "prompt"}
    asked = [flag for flag in schemes if reading.knows(flag) and reading.get(flag, False)]
    if len(asked) > 1:
        raise reading.refuse(asked[1], f"--{asked[0]} is given too, and a run has one scheme; drop one of them.")
    scheme = schemes[asked[0]] if asked else "full"
    reading.set("tuning.name", scheme)
    if scheme == "lora":
        reading.set("tuning.r", reading.get("lora_r", 8))
        reading.set("tuning.alpha", reading.get("lora_alpha", 16))
    elif scheme == "prefix":
        reading.set("tuning.num_virtual_tokens", reading.get("num_prefix", 5))
        if not reading.get("no_reparam", True):
            reading.note("no counterpart", "no_reparam", "prefixes are not reparametrised by an MLP here")
        if not reading.get("prefix_init_by_real_act", True):
            reading.set("tuning.init", "random")
        _note_rotary(reading)
    elif scheme == "prompt":
        reading.set("tuning.num_virtual_tokens", reading.get("num_virtual_tokens", 10))
        if not reading.get("prompt_init_by_real_tokens", False):
            reading.set("tuning.init", "random")
            text = "without it embeddings start from N(0, 1) there, from noise as large as real ones here"
            reading.note("differs", "--prompt_init_by_real_tokens", text, "SubZero and ZO-LLM, prompt tuning")


def _note_rotary(reading: Reading) -> None:
    """Say that prefixes of models with rotary positions are others there."""
    if "opt" not in str(reading.get("model_name", "")).lower():
        text = "with rotary positions the text's positions overlap the prefix's there; here the text follows it"
        reading.note("differs", "prefix_tuning", text, "MeZO and ZO-LLM, prefix tuning")


def read_lr_and_batch(reading: Reading, *, batch_size: int) -> None:
    """Set the learning rate and the rows of a step."""
    if (lr := reading.get("learning_rate")) is None:
        raise UsageError(
            f"--learning_rate is missing: {reading.code} would take transformers' 5e-5, which fits no method. Give the "
            "one of the run."
        )
    reading.set("lr", lr)
    reading.set("batch_size", reading.get_or_assume("per_device_train_batch_size", batch_size))
    if (accumulated := reading.get("gradient_accumulation_steps", 1)) != 1:
        reading.set("gradient_accumulation_steps", accumulated)


def read_evaluation(reading: Reading) -> Literal["evaluate"]:
    """Set the options of a run that tunes nothing: zero-shot, in-context learning, or a linear probe."""
    num_train = reading.get("num_train", 0)
    if reading.get("linear_probing", False):
        reading.set("baseline", "linear_probe")
        if num_train:
            reading.set("num_train", num_train)
        if reading.get("lp_early_stopping", False):
            reading.note("no counterpart", "lp_early_stopping", "the probe is fitted to the end")
    elif num_train:
        reading.set("demonstrations", num_train)
        if sets := reading.get("num_train_sets"):
            reading.set("demonstration_sets", sets)
        elif not reading.has("train_set_seed") and not reading.knows("template_ver"):  # ZO-LLM's seed is 0 by default
            reading.set("demonstration_sets", "per-row")
    if reading.get("icl_sfc", False):
        reading.set("calibration", "icl_sfc")
    elif reading.get("sfc", False):
        reading.set("calibration", "sfc")
    for name in ("train_as_classification", "num_dev"):
        reading.get(name)
    return "evaluate"


def read_max_new_tokens(reading: Reading, task: Task) -> None:
    """Say where generated texts are longer or shorter than the task's."""
    if not isinstance(task, GenerationTask):
        return
    if reading.get("max_new_tokens", task.max_new_tokens) != task.max_new_tokens:
        text = f"texts of {task.name} have at most {task.max_new_tokens}; --max-new-tokens is for rows of your own"
        reading.note("no counterpart", "max_new_tokens", text)


def set_method(reading: Reading, name: str) -> None:
    """Set a zeroth-order method with the settings that they have in common."""
    reading.set("method.name", name)
    reading.set("zo_eps", reading.get("zo_eps", 1e-3))
    set_weight_decay(reading)


def set_first_order(reading: Reading, name: str) -> None:
    """Set a first-order method."""
    reading.set("method.name", name)
    set_weight_decay(reading)
    norm = reading.get("max_grad_norm", 1.0)
    if norm != 1.0:
        reading.set("method.max_grad_norm", norm)
    reading.get("optim")


def set_weight_decay(reading: Reading) -> None:
    """Set weight decay, where there is any."""
    if decay := reading.get("weight_decay", 0.0):
        set_setting(reading, "weight_decay", "weight_decay", decay)


def set_setting(reading: Reading, flag: str, setting: str, value: Any) -> None:
    """Set a setting of the method that was chosen, or say that it has none of this name."""
    if has_setting(reading, setting):
        reading.set(f"method.{setting}", value)
    else:
        reading.note("no counterpart", flag, f"method {reading.options['method.name']!r} has no {setting}")


def has_setting(reading: Reading, setting: str) -> bool:
    """Say whether the method that was chosen has a setting."""
    return setting in {field.name for field in fields(RECIPES.get(reading.options["method.name"]))}
