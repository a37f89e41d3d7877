"""The few-shot protocol of RoBERTa."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from migrated import asked, migrated, told, train_config

RUN = (
    "python run.py --task_name SST-2 --model_name_or_path roberta-large --num_k 512 --seed 13 --learning_rate 1e-6"
    " --max_steps 100000 --eval_steps 10000 --per_device_train_batch_size 64 --lr_scheduler_type constant"
    " --few_shot_type prompt --zero_order_optim --zero_order_eps 1e-3 --efficient_zero_order"
)
FEW_SHOT = {"model": "roberta-large", "dtype": "float32", "tuning.name": "full", "zo_eps": 1e-3}
LONG = {"steps": 100_000, "batch_size": 64, "eval_steps": 10_000}


@pytest.mark.parametrize(
    ("name", "task"),
    [("SST-2", "sst2"), ("sst-5", "sst5"), ("SNLI", "snli"), ("MNLI", "mnli"), ("RTE", "rte"), ("trec", "trec")],
)
def test_the_script_of_mezo(name, task):
    migration = migrated(f"TASK={name} K=16 SEED=42 BS=64 LR=1e-6 EPS=1e-3 MODEL=roberta-large bash mezo.sh")
    seeds = {"shots": 16, "seed": 42, "train_set_seed": 42}
    assert asked(train_config(migration)) == FEW_SHOT | LONG | seeds | {"task": task, "method.name": "mezo", "lr": 1e-6}
    assert "one step more" in told(migration, "differs")["STEP=100000"]


def test_lora_and_weight_decay():
    command = "TASK=SST-2 K=16 SEED=42 BS=64 LR=1e-4 EPS=1e-3 WD=0.1 MODEL=roberta-large bash mezo.sh"
    settings = {"tuning.name": "lora", "tuning.r": 8, "tuning.alpha": 16, "lr": 1e-4, "method.weight_decay": 0.1}
    migration = migrated(f"{command} --apply_lora --lora_r 8 --lora_alpha 16")
    assert asked(train_config(migration)).items() >= settings.items()
    assert "every tensor" in told(migration, "differs")["WD=0.1"]


def test_prefixes_of_masked_models_are_refused():
    with pytest.raises(UsageError, match=r"--prefix_tuning .* use full tuning or --apply_lora"):
        migrated(
            "TASK=SST-2 LR=1e-2 EPS=1e-1 MODEL=roberta-large bash mezo.sh --prefix_tuning --num_prefix 5 --no_reparam"
        )


def test_first_order():
    config = train_config(migrated("TASK=SST-2 K=16 SEED=42 BS=8 LR=1e-5 MODEL=roberta-large bash finetune.sh"))
    settings = {"method.name": "adam", "steps": 1000, "eval_steps": 100, "batch_size": 8, "lr": 1e-5}
    assert asked(config).items() >= settings.items()


@pytest.mark.parametrize(
    ("extra", "method"),
    [("", "lozo"), ("--lozo_optimizer sgdm --beta1 0.9", "lozo_m"), ("--lozo_optimizer=sgdm", "lozo_m")],
)
def test_the_script_of_lozo(extra, method):
    variables = "TASK=SST-2 K=16 SEED=42 BS=64 LR=1e-7 EPS=1e-3 RANK=4 STEP_INTERVAL=100 MODEL=roberta-large"
    migration = migrated(f"{variables} bash lozo.sh {extra}")
    momentum = {"method.beta": 0.9 if "0.9" in extra else 0.7} if method == "lozo_m" else {}
    seeds = {"shots": 16, "seed": 42, "train_set_seed": 42, "task": "sst2", "lr": 1e-7}
    lozo = {"method.name": method, "method.rank": 4, "method.interval": 100, **momentum}
    assert asked(train_config(migration)) == FEW_SHOT | LONG | seeds | lozo


def test_the_defaults_of_lozos_script():
    config = train_config(migrated("TASK=SST-2 K=512 SEED=13 bash lozo.sh"))
    assert (config.method, config.lr) == ({**config.method, "rank": 4, "interval": 50}, 1e-6)


def test_samples_count_only_with_a_scheduler():
    migration = migrated(f"{RUN} --zero_order_sample 4")
    assert train_config(migration).num_directions is None
    assert "--num-directions 4 follows it" in told(migration, "ignored there")["--zero_order_sample 4"]
    config = train_config(migrated(f"{RUN} --zero_order_sample 4 --zero_order_sample_scheduler linear"))
    assert (config.num_directions, config.method["ramp_steps"]) == (4, 100_000)
    summed = f"{RUN} --zero_order_sample 16 --zero_order_sample_scheduler constant --scale_lr_with_samples"
    assert train_config(migrated(summed)).method["weighting"] == "sum"


def test_the_efficient_mode_ignores_schedules():
    migration = migrated(f"{RUN} --lr_scheduler_type linear")
    assert train_config(migration).lr_scheduler == "constant"
    assert "--lr-scheduler linear follows it" in told(migration, "ignored there")["--lr_scheduler_type linear"]
    ordinary = RUN.replace(" --efficient_zero_order", "")
    assert train_config(migrated(f"{ordinary} --lr_scheduler_type linear")).lr_scheduler == "linear"


def test_adam_clipping_layers_norms_and_accuracy():
    adam = train_config(migrated(f"{RUN} --zero_order_use_trainer_optim --optimizer adam"))
    assert adam.method["name"] == "zo_adam"
    clipped = train_config(migrated(f"{RUN} --zero_order_clip_grad --max_grad_norm 2.0"))
    assert clipped.method["max_grad_norm"] == 2.0
    layers = train_config(migrated(f"{RUN} --zo_by_layer"))
    assert (layers.schedule["name"], layers.schedule["level"]) == ("module_blocks", "transformer-block")
    scaled = migrated(f"{RUN} --zo_variant param_norm --recompute_norms --scale_norm_by_num_params")
    assert train_config(scaled).schedule.items() >= {"name": "norm_scaled", "form": "variance", "interval": 1}.items()
    assert "--scale_norm_by_num_params" in told(scaled, "differs")
    assert train_config(migrated(f"{RUN} --optimize_acc")).objective == "accuracy"
    with pytest.raises(UsageError, match="param_norm"):
        migrated(f"{RUN} --zo_variant grad_norm")
    with pytest.raises(UsageError, match="'copa' has no prompt for masked models"):
        migrated(RUN.replace("SST-2", "Copa"))
