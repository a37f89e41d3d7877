"""HiZOO's commands."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from migrated import migrated, told, train_config

RUN = "python run.py --model_name facebook/opt-13b --task_name WSC --trainer zo --learning_rate 1e-6 --zo_eps 1e-3"


@pytest.mark.parametrize(
    "command",
    [
        f"{RUN} --hessian_smooth_type constant1e-8 --load_float16 --train_as_classification",
        "MODEL=facebook/opt-13b TASK=WSC MODE=ft LR=1e-6 EPS=1e-3 HESSIAN_SMOOTH_TYPE=constant1e-8 bash mezo.sh",
        "MODEL=facebook/opt-13b TASK=WSC LR=1e-6 EPS=1e-3 bash mezo.sh --hessian_smooth_type constant1e-8",
    ],
)
def test_the_command_of_the_readme(command):
    migration = migrated(command)
    config = train_config(migration)
    assert migration.origin.startswith("HiZOO")
    assert config.method.items() >= {"name": "hizoo", "smooth": 1e-8, "precond": "new"}.items()
    assert (config.lr, config.zo_eps, config.task, config.objective) == (1e-6, 1e-3, "wsc", None)
    (text,) = (text for subject, text in told(migration, "differs").items() if "constant1e-8" in subject)
    assert "--method mezo" in text


def test_the_default_of_the_flag_is_mezo():
    migration = migrated("MODEL=facebook/opt-13b TASK=WSC EPS=1e-3 bash mezo.sh", code="hizoo")
    config = train_config(migration)
    assert (config.method["name"], config.lr, config.eval_steps) == ("mezo", 1e-5, 2000)
    assert "constant1e-8" in told(migration, "differs")["HESSIAN_SMOOTH_TYPE=constant0"]


@pytest.mark.parametrize("lr", ["1e-5", "5e-5", "1e-4"])
@pytest.mark.parametrize("zo_eps", ["1e-3", "1e-2"])
def test_zobcds_grid_of_hizoo_with_lora(lr, zo_eps):
    command = f"--lora --lora_r 8 --hessian_smooth_type constant1e-8 --learning_rate {lr} --zo_eps {zo_eps}"
    config = train_config(migrated(f"{RUN} {command}"))
    assert (config.tuning["name"], config.tuning["r"], config.lr, config.zo_eps) == (
        "lora",
        8,
        float(lr),
        float(zo_eps),
    )


def test_schedules_and_other_smoothings():
    migration = migrated(f"{RUN} --hessian_smooth_type constant1e-6 --zo_lr_scheduler_type cosine --warmup_step 10")
    assert "--zo_lr_scheduler_type cosine" in told(migration, "no counterpart")
    assert train_config(migration).method["smooth"] == 1e-6
    with pytest.raises(UsageError, match="use one of constant0, constant1e-2"):
        migrated(f"{RUN} --hessian_smooth_type decay1e-6")
