"""ZO-LLM's sweep files."""

from __future__ import annotations

import pytest
import yaml

from foretune.errors import UsageError
from foretune.migration import migrate_sweep
from migrated import train_config

FIXED = [
    *("--model_name=facebook/opt-1.3b", "--task_name=SST2", "--num_train=1000", "--num_dev=500", "--num_eval=1000"),
    *("--max_steps=20000", "--num_train_epochs=5", "--eval_steps=1000", "--eval_steps=500", "--save_steps=500"),
    *(
        "--per_device_train_batch_size=16",
        "--lr_scheduler_type=constant",
        "--train_as_classification",
        "--train_set_seed=0",
    ),
    *("--load_best_model_at_end", "--evaluation_strategy=steps", "--save_strategy=steps", "--save_total_limit=1"),
    *("--weight_decay=0", "--perturbation_mode=two_side", "--overwrite_output_dir", "--load_bfloat16"),
]
OPTIMIZERS = {
    "adam": ("--trainer=regular --optimizer=adam", "adam"),
    "sgd": ("--trainer=regular --optimizer=sgd", "sgd"),
    "forward_grad": ("--trainer=forward_grad", "forward_grad"),
    "sign_sgd": ("--trainer=zo_sign_opt", "zo_sign"),
    "zo_adam": ("--trainer=zo_adam", "zo_adam"),
    "zo_sgd": ("--trainer=zo_sgd", "mezo"),
    "zo_sgd_conserv": ("--trainer=zo_conserv", "zo_conservative"),
    "zo_sgd_momen": ("--trainer=zo_sgd --momentum=0.9", "zo_momentum"),
}
SCHEMES = {
    "ft": ("", "full"),
    "lora": ("--lora --lora_r=8 --lora_alpha=16", "lora"),
    "prefix": ("--prefix_tuning --num_prefix=5 --no_reparam --prefix_init_by_real_act", "prefix"),
    "prompt": ("--prompt_tuning --num_virtual_tokens=10 --prompt_init_by_real_tokens", "prompt"),
}
LRS = ["1e-3", "1e-4", "1e-5", "1e-6", "1e-7"]


@pytest.fixture
def write(tmp_path):
    def file(parameters, flags=(), **changes):
        content = {
            "program": "run.py",
            "method": "grid",
            "metric": {"goal": "maximize", "name": "test_acc"},
            "parameters": parameters,
            "command": ["${env}", "${interpreter}", "${program}", *FIXED, *flags, "${args}"],
            **changes,
        }
        path = tmp_path / "sweep.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    return file


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_optimizer_with_every_scheme(write, optimizer, scheme):
    trainer, method = OPTIMIZERS[optimizer]
    flags, tuning = SCHEMES[scheme]
    grid = {"learning_rate": {"values": [float(lr) for lr in LRS[:2]]}, "zo_eps": {"values": [1e-2, 1e-3]}}
    sweep = migrate_sweep(write(grid, [*trainer.split(), *flags.split()]))
    zeroth_order = trainer.startswith("--trainer=zo_")
    assert len(sweep.migrations) == (4 if zeroth_order else 2)  # zo_eps multiplies first-order runs for nothing
    lrs = [migration.options["lr"] for migration in sweep.migrations]
    assert lrs == ([1e-3, 1e-3, 1e-4, 1e-4] if zeroth_order else [1e-3, 1e-4])
    assert len({migration.options["output"] for migration in sweep.migrations}) == len(lrs)
    config = train_config(sweep.migrations[-1])
    assert (config.method["name"], config.tuning["name"]) == (method, tuning)
    assert (config.lr, config.zo_eps) == (1e-4, 1e-3 if zeroth_order else None)
    assert (config.steps, config.eval_steps, config.dtype) == (20_000, 500, "bfloat16")
    texts = [str(note) for note in sweep.notes]
    assert any("4 combinations are 2 runs" in text for text in texts) != zeroth_order
    assert any("tests on" in text for text in texts)


def test_the_sparse_sweep(write):
    grid = {
        "gradient_sparsity": {"values": [round(0.1 * tenth, 1) for tenth in range(1, 10)]},
        "sparse_gradient_resample_steps": {"values": [1, 10, 100, 500, 1000, 5000, 10_000, 20_000]},
        "learning_rate": {"value": 1e-6},
    }
    sweep = migrate_sweep(write(grid, ["--trainer=zo_sgd", "--zo_eps=1e-3", "--sparse_gradient_group=global"]))
    assert len(sweep.migrations) == 72
    assert sweep.shared["space.group"] == "global"
    assert "space.sparsity" not in sweep.shared
    assert train_config(sweep.migrations[-1]).space.items() >= {"sparsity": 0.9, "resample_interval": 20_000}.items()


@pytest.mark.parametrize("model", ["meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.1", "lmsys/vicuna-7b-v1.5"])
@pytest.mark.parametrize("task", ["Copa", "WinoGrande"])
def test_models_and_tasks_with_teacher_forcing(write, model, task):
    flags = [f"--model_name={model}", f"--task_name={task}", "--num_dev=100", "--train_as_classification=False"]
    sweep = migrate_sweep(write({"learning_rate": {"values": LRS}}, [*flags, "--trainer=zo_sgd"]))
    config = train_config(sweep.migrations[0])
    assert (config.model, config.task, config.num_dev, config.objective) == (model, task.lower(), 100, None)


def test_the_faults_of_the_files_are_named(write):
    grid = {"learning_rate": {"values": [1e-4]}}
    with pytest.raises(UsageError, match=r"--trainer=regular --optimizer=sgd"):
        migrate_sweep(write(grid, ["--trainer=sgd"]))
    with pytest.raises(UsageError, match=r"--head_tuning .* with Adam only"):
        migrate_sweep(write(grid, ["--trainer=zo_sgd", "--head_tuning"]))
    sweep = migrate_sweep(
        write(grid, ["--trainer=zo_sgd", "--per device train batch size=8", "train_as_classification"])
    )
    unknown = {note.subject: note.text for note in sweep.notes if note.kind == "unknown"}
    assert "per_device_train_batch_size" in unknown["--per device train batch size=8"]
    assert "train_as_classification" in unknown


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1", "and this file has none"),
        ("parameters: {learning_rate: {min: 0, max: 1}}", "write the values of a range out"),
        ("parameters: {learning_rate: 3}", "must have value or values"),
        ("parameters: {learning_rate: {values: []}}", "neither value nor values"),
        ("parameters: {lr: {value: 1}}\ncommand: python", "command must be a list"),
        ("{", "not YAML"),
    ],
)
def test_files_that_are_no_sweeps(tmp_path, content, message):
    path = tmp_path / "sweep.yml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        migrate_sweep(path)
    with pytest.raises(UsageError, match="there is no such file"):
        migrate_sweep(tmp_path / "missing.yml")


def test_other_searches_are_written_out(write):
    grid = {"learning_rate": {"values": [1e-4, 1e-5]}}
    sweep = migrate_sweep(write(grid, ["--trainer=zo_sgd"], method="bayes", early_terminate={"type": "hyperband"}))
    assert len(sweep.migrations) == 2
    assert {note.subject.partition(":")[0] for note in sweep.notes if note.kind == "no counterpart"} >= {
        "method",
        "early_terminate",
    }
