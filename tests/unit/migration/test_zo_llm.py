"""ZO-LLM's trainers, schemes and enhancements."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from migrated import asked, migrated, told, train_config

RUN = (
    "python run.py --model_name=facebook/opt-1.3b --task_name=SST2 --learning_rate=1e-6 --zo_eps=1e-3 --max_steps=20000"
    " --per_device_train_batch_size=16 --num_train=1000 --num_dev=500 --num_eval=1000 --eval_steps=500 --save_steps=500"
    " --train_as_classification --lr_scheduler_type=constant --load_float16 --weight_decay=0"
    " --perturbation_mode=two_side"
    " --load_best_model_at_end --evaluation_strategy=steps --save_strategy=steps --save_total_limit=1"
    " --train_set_seed=0"
)


def _method(extra: str):
    migration = migrated(f"{RUN} {extra}", code="zo-llm")
    return train_config(migration).method_options, migration


@pytest.mark.parametrize(
    ("trainer", "method"),
    [
        ("zo_sgd", "mezo"),
        ("zo_sgd --momentum=0", "mezo"),
        ("zo_sgd --momentum=0.9", "zo_momentum"),
        ("zo_adam", "zo_adam"),
        ("zo_sign_opt --optimizer=sgd", "zo_sign"),
        ("zo_conserv --optimizer=sgd", "zo_conservative"),
        ("forward_grad", "forward_grad"),
        ("regular --optimizer=sgd", "sgd"),
        ("regular --optimizer=adam", "adam"),
        ("regular", "adamw"),
    ],
)
def test_the_trainers(trainer, method):
    migration = migrated(f"{RUN} --trainer={trainer}", code="zo-llm")
    config = train_config(migration)
    assert config.method["name"] == method
    assert (config.lr, config.steps, config.eval_steps, config.dtype) == (1e-6, 20_000, 500, "float16")
    assert config.zo_eps == (1e-3 if "zo_" in trainer else None)


@pytest.mark.parametrize(
    ("scheme", "tuning"),
    [
        ("", {"name": "full"}),
        ("--lora --lora_r=8 --lora_alpha=16", {"name": "lora", "r": 8, "alpha": 16}),
        (
            "--prefix_tuning --num_prefix=5 --no_reparam --prefix_init_by_real_act",
            {"name": "prefix", "num_virtual_tokens": 5},
        ),
        (
            "--prompt_tuning --num_virtual_tokens=10 --prompt_init_by_real_tokens",
            {"name": "prompt", "num_virtual_tokens": 10},
        ),
        ("--prompt_tuning", {"name": "prompt", "num_virtual_tokens": 10, "init": "random"}),
    ],
)
def test_the_schemes(scheme, tuning):
    config = train_config(migrated(f"{RUN} --trainer=zo_sgd {scheme}"))
    assert {name: value for name, value in config.tuning.items() if value is not None} == tuning


def test_a_plain_run_has_no_notes_and_sets_nothing_else():
    migration = migrated(f"{RUN} --trainer=zo_sgd")
    assert migration.notes == ()
    assert asked(train_config(migration)) == {
        "model": "facebook/opt-1.3b",
        "task": "sst2",
        "dtype": "float16",
        "method.name": "mezo",
        "tuning.name": "full",
        "lr": 1e-6,
        "zo_eps": 1e-3,
        "num_train": 1000,
        "num_dev": 500,
        "num_eval": 1000,
        "eval_steps": 500,
    }


def test_sign_is_of_the_scalar_and_adamw_stepped_where_no_optimizer_is_named():
    method, migration = _method("--trainer=zo_sign_opt")
    assert method["sign_mode"] == "scalar"
    text = told(migration, "differs")["--optimizer"]
    command = text.partition("that run is ")[2].partition(", without")[0]
    assert command == "--method mezo --method.weighting sign --update adam --update.decoupled true"
    from foretune.cli.train import parse
    from foretune.methods import make_method

    options = parse(command.split()).method_options  # what the note offers is a command too
    make_method("mezo", options)
    _, right = _method("--trainer=zo_sign_opt --optimizer=sgd")
    assert "--optimizer" not in told(right, "differs")
    _, conservative = _method("--trainer=zo_conserv")
    assert "nothing here is equal" in told(conservative, "differs")["--optimizer"]


@pytest.mark.parametrize("trainer", ["zo_sgd", "zo_adam", "forward_grad"])
def test_schedules_reached_no_update(trainer):
    migration = migrated(f"{RUN} --trainer={trainer} --lr_scheduler_type=cosine --warmup_ratio=0.2", code="zo-llm")
    assert train_config(migration).lr_scheduler == "constant"
    assert (
        "--lr-scheduler cosine --warmup-steps 4000 follows it"
        in told(migration, "ignored there")["--lr_scheduler_type=cosine"]
    )


def test_weight_decay_is_ignored_by_zeroth_order_trainers_only():
    _, migration = _method("--trainer=zo_adam --weight_decay=1e-3")
    assert "--method.weight_decay 0.001 follows it" in told(migration, "ignored there")["--weight_decay=1e-3"]
    method, _ = _method("--trainer=regular --optimizer=adam --weight_decay=1e-3")
    assert method["weight_decay"] == 1e-3


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("interval", [1, 20_000])
def test_sparse_gradients(sparsity, interval):
    extra = f"--gradient_sparsity={sparsity} --sparse_gradient_resample_steps={interval} --sparse_gradient_group=global"
    method, migration = _method(f"--trainer=zo_sgd {extra}")
    assert method["space"] == {
        "name": "masked",
        "sparsity": sparsity,
        "resample_interval": interval,
        "group": "global",
        "parity": True,
    }
    assert f"Phi({sparsity:g})" in told(migration, "differs")[f"--gradient_sparsity={sparsity}"]


def test_no_sparsity_and_lost_masks():
    method, migration = _method("--trainer=zo_sgd --gradient_sparsity=None")
    assert "space" not in method
    assert migration.notes == ()
    _, migration = _method("--trainer=zo_sgd --gradient_sparsity=0.5 --q=2")
    assert any("leaves the mask out" in note.text for note in migration.notes)
    _, migration = _method("--trainer=zo_sgd --sparse_gradient_group=global")
    assert told(migration, "ignored there") == {
        "--sparse_gradient_group=global": "ZO-LLM reads it with --gradient_sparsity only"
    }


def test_blocks_directions_and_sides():
    method, migration = _method(
        "--trainer=zo_sgd --momentum=0.9 --module_wise_perturbation --perturbed_module_level=mlp-attn"
    )
    assert method["schedule"] == {"name": "module_blocks", "level": "mlp-attn", "sequential": True}
    assert "one seed" in told(migration, "differs")["--module_wise_perturbation"]
    method, migration = _method("--trainer=zo_sgd --q=4 --perturbation_mode=one_side")
    assert (method["num_directions"], method["estimator"]) == (4, "one_sided")
    assert "again for every direction" in told(migration, "differs")["--perturbation_mode=one_side"]
    _, migration = _method("--trainer=zo_adam --perturbation_mode=one_side")
    assert "--perturbation_mode=one_side" in told(migration, "no counterpart")
    method, _ = _method("--trainer=forward_grad --optimizer=adam --q=3")
    assert (method["update"], method["num_directions"]) == ({"name": "adam"}, 3)


def test_templates_are_numbers_there():
    assert train_config(migrated(f"{RUN} --trainer=zo_sgd --template_ver=1")).template == "v1"
    boolq = RUN.replace("SST2", "BoolQ")
    assert train_config(migrated(f"{boolq} --trainer=zo_sgd")).template == "v0"
    with pytest.raises(UsageError, match="'sst2' has no such prompt here; it has v0, v1"):
        migrated(f"{RUN} --trainer=zo_sgd --template_ver=7")


def test_a_trainer_of_the_sweep_files_that_is_none():
    with pytest.raises(UsageError, match=r"--trainer=regular --optimizer=sgd"):
        migrated(f"{RUN} --trainer=sgd", code="zo-llm")
