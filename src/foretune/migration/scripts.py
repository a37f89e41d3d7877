"""The shell scripts of the research codes: which flags their environment variables stand for.

``MODEL=facebook/opt-13b TASK=SST2 MODE=ft LR=1e-7 EPS=1e-3 bash mezo.sh``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foretune.errors import UsageError, near_misses
from foretune.migration.flags import Given, given_flags

KEPT = (
    "CUDA_",
    "HF_",
    "HUGGINGFACE_",
    "TRANSFORMERS_",
    "TOKENIZERS_",
    "WANDB_",
    "OMP_",
    "MKL_",
    "NCCL_",
    "PYTHON",
    "HTTP",
)
"""Beginnings of variables that belong to the process and not to the run."""
NAMES = ("TAG", "EXTRA_TAG", "GRID_TAG", "TRIAL_IDX", "MODELNAME", "TYPE")
"""Variables that only name folders and logs there."""

_MODES = {
    "ft": "",
    "lora": "--lora",
    "prefix": "--prefix_tuning --num_prefix 5 --no_reparam --prefix_init_by_real_act",
}
_TEACHER_FORCED = ("Copa", "ReCoRD", "SQuAD", "DROP")
_SMALL = {"CB": "100", "Copa": "100"}
_CAUSAL = {
    "MODEL": "model_name",
    "TASK": "task_name",
    "LR": "learning_rate",
    "BS": "per_device_train_batch_size",
    "SEED": "train_set_seed",
    "TRAIN": "num_train",
    "DEV": "num_dev",
    "EVAL": "num_eval",
}
_ROWS = {"TRAIN": "1000", "DEV": "500", "EVAL": "1000", "SEED": "0"}
_ZEROTH_ORDER = {"EPS": "zo_eps", "STEPS": "max_steps", "EVAL_STEPS": "eval_steps"}
_ZO = "--trainer zo --load_float16 --lr_scheduler_type constant"
_ZO_RUN = {"BS": "16", "EPS": "1e-3", "STEPS": "20000", "EVAL_STEPS": "4000"}
_MASKED = {
    "MODEL": "model_name_or_path",
    "TASK": "task_name",
    "K": "num_k",
    "SEED": "seed",
    "LR": "learning_rate",
    "BS": "per_device_train_batch_size",
    "WD": "weight_decay",
    "STEP": "max_steps",
    "EVAL_STEP": "eval_steps",
}
_FEW_SHOT = {"K": "16", "SEED": "42", "WD": "0", "MODEL": "roberta-large"}
_MASKED_ZO = "--zero_order_optim --efficient_zero_order --optimizer sgd --lr_scheduler_type constant"
_MASKED_ZO_RUN = {"BS": "64", "LR": "1e-6", "EPS": "1e-3", "STEP": "100000", "EVAL_STEP": "10000"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShellScript:
    """One script.

    Attributes:
        name: Its file name.
        code: Key of the research code.
        variables: The flag that each variable stands for.
        defaults: Values of variables that are not given.
        fixed: Flags it always passes.
        modes: Flags for each value of MODE, where it has that.
    """

    name: str
    code: str
    variables: Mapping[str, str]
    defaults: Mapping[str, str]
    fixed: str
    modes: Mapping[str, str] | None = None

    def unknown(self, variables: Mapping[str, str]) -> list[str]:
        """Return the variables that the script does not read."""
        known = {*self.variables, *NAMES, *(("MODE",) if self.modes else ())}
        return [name for name in variables if name not in known and not name.startswith(KEPT)]

    def flags(self, variables: Mapping[str, str]) -> list[Given]:
        """Return the flags that the script passes to run.py.

        Raises:
            UsageError: TASK, MODEL or LR is missing and has no default; or an unknown MODE.
        """
        defaults = dict(self.defaults)
        task = variables.get("TASK", defaults.get("TASK", ""))
        fixed = self.fixed
        if self.modes is not None:
            if task in _SMALL:
                defaults["DEV"] = _SMALL[task]
            if task not in _TEACHER_FORCED:
                fixed += " --train_as_classification"
            mode = variables.get("MODE", "ft")
            if mode not in self.modes:
                raise UsageError(f"MODE={mode}: {self.name} has no such mode.{near_misses(mode, self.modes)}")
            fixed += f" {self.modes[mode]}"
        values = {**defaults, **variables}
        for name in ("MODEL", "TASK", "LR"):
            if name in self.variables and name not in values:
                raise UsageError(f"{name}=... is missing in front of {self.name}, and which is meant cannot be known.")
        passed, _ = given_flags(fixed.split())
        read = [
            Given(flag, values[name], f"{name}={values[name]}")
            for name, flag in self.variables.items()
            if name in values
        ]
        return passed + read


SCRIPTS: Sequence[ShellScript] = (
    ShellScript(
        name="mezo.sh",
        code="mezo",
        variables=_CAUSAL | _ZEROTH_ORDER,
        defaults=_ROWS | _ZO_RUN,
        fixed=_ZO,
        modes=_MODES,
    ),
    ShellScript(
        name="finetune.sh",
        code="mezo",
        variables=_CAUSAL | {"EPOCH": "num_train_epochs"},
        defaults=_ROWS | {"BS": "8", "EPOCH": "5", "LR": "1e-5"},
        fixed="--trainer regular --fp16 --lr_scheduler_type linear --evaluation_strategy epoch",
        modes=_MODES,
    ),
    ShellScript(
        name="icl.sh",
        code="mezo",
        variables={name: _CAUSAL[name] for name in ("MODEL", "TASK", "SEED", "TRAIN", "EVAL")},
        defaults={"TRAIN": "32", "EVAL": "1000", "SEED": "0"},
        fixed="--load_float16",
    ),
    ShellScript(
        name="mezo.sh",
        code="hizoo",
        variables=_CAUSAL | _ZEROTH_ORDER | {"HESSIAN_SMOOTH_TYPE": "hessian_smooth_type"},
        defaults=_ROWS | _ZO_RUN | {"LR": "1e-5", "EVAL_STEPS": "2000", "HESSIAN_SMOOTH_TYPE": "constant0"},
        fixed=_ZO,
        modes=_MODES,
    ),
    ShellScript(
        name="lozo.sh",
        code="lozo",
        variables=_CAUSAL | _ZEROTH_ORDER | {"RANK": "rank_r", "STEP_INTERVAL": "step_interval"},
        defaults=_ROWS | _ZO_RUN | {"TASK": "DROP", "LR": "1e-7", "RANK": "1", "STEP_INTERVAL": "100"},
        fixed=_ZO,
        modes={"ft": ""},
    ),
    ShellScript(
        name="mezo.sh",
        code="mezo-roberta",
        variables=_MASKED | {"EPS": "zero_order_eps"},
        defaults=_FEW_SHOT | _MASKED_ZO_RUN,
        fixed=_MASKED_ZO,
    ),
    ShellScript(
        name="finetune.sh",
        code="mezo-roberta",
        variables=_MASKED,
        defaults=_FEW_SHOT | {"BS": "8", "LR": "1e-5", "STEP": "1000", "EVAL_STEP": "100"},
        fixed="--optimizer adam",
    ),
    ShellScript(
        name="lozo.sh",
        code="lozo-roberta",
        variables=_MASKED | {"EPS": "zero_order_eps", "RANK": "rank", "STEP_INTERVAL": "step_interval"},
        defaults=_FEW_SHOT | _MASKED_ZO_RUN | {"RANK": "4", "STEP_INTERVAL": "50"},
        fixed=_MASKED_ZO,
    ),
)
"""The scripts, with the defaults they have."""


def find_script(name: str, variables: Mapping[str, str], extra: Sequence[Given], code: str | None) -> ShellScript:
    """Return the script that reads these variables; of equals the first one.

    Args:
        name: File name.
        variables: In front of it.
        extra: Flags behind it, which it passes on.
        code: Key of its research code, where that is known.
    Raises:
        UsageError: no such script.
    """
    named = [script for script in SCRIPTS if script.name == name and code in (None, script.code)]
    if not named:
        known = {script.name for script in SCRIPTS if code in (None, script.code)}
        raise UsageError(
            f"{name} is no script of {'a research code known here' if code is None else code!r}."
            f"{near_misses(name, known)} If it is a file of yours, give the file: foretune migrate {name}"
        )
    masked = "-" in variables.get("TASK", "") or "K" in variables or "roberta" in variables.get("MODEL", "").lower()
    hessian = any(flag.name == "hessian_smooth_type" for flag in extra)

    def distance(script: ShellScript) -> tuple[int, bool, bool]:
        return (
            len(script.unknown(variables)),
            script.code.endswith("-roberta") != masked,
            (script.code == "hizoo") != (hessian or "HESSIAN_SMOOTH_TYPE" in variables),
        )

    return min(named, key=distance)
