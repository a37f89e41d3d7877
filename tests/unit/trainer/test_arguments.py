from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from transformers import HfArgumentParser

from foretune import ZOTrainingArguments
from foretune.errors import UsageError
from foretune.methods import METHODS


def make(tmp_path, **settings):
    return ZOTrainingArguments(**{"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", **settings})


@pytest.mark.parametrize("name", list(METHODS))
def test_learning_rate_defaults_to_the_methods(tmp_path, name):
    args = make(tmp_path, method=name)
    assert args.learning_rate == args.zo_method.lr == METHODS.get(name)().lr
    assert args.lr_scheduler_type == "constant"
    assert args.max_grad_norm == 0
    assert args.n_gpu <= 1


def test_settings_reach_the_method(tmp_path):
    args = make(tmp_path, method="lozo", learning_rate=3e-5, method_options={"rank": 4})
    assert args.zo_method.describe()["rank"] == 4
    assert args.zo_method.lr == 3e-5
    assert make(tmp_path, learning_rate=0).zo_method.lr == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mezzo"}, r"Unknown method 'mezzo'. Did you mean: mezo\?"),
        ({"method_options": {"zoeps": 1}}, r"has no option 'zoeps'. Did you mean: zo_eps\?"),
        ({"method_options": {"zo_eps": -1.0}}, "zo_eps must be positive and finite, got -1.0"),
        ({"method_options": {"lr": 1e-3}}, "Give the learning rate as learning_rate"),
        ({"method_options": "rank=4"}, "method_options must be a dict or a JSON object, got 'rank=4'"),
        ({"engine": "layer"}, r"Unknown engine 'layer'. Did you mean: layerwise\?"),
        ({"learning_rate": -1e-3}, "learning_rate must be 0 or more and finite, got -0.001"),
        ({"learning_rate": float("inf")}, "learning_rate must be 0 or more and finite, got inf"),
        ({"learning_rate": float("nan")}, "learning_rate must be 0 or more and finite, got nan"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "'reduce_lr_on_plateau' depends on evaluations"),
        ({"lr_scheduler_type": "greedy"}, "'greedy' depends on evaluations"),
        ({"fp16": True}, "fp16=True is not for zeroth-order runs: it scales gradients"),
        ({"max_grad_norm": 1.0}, "max_grad_norm=1.0 is not .*: there is no gradient to clip; .* Leave it 0.0."),
        ({"logging_nan_inf_filter": True}, "it would hide non-finite losses"),
        ({"weight_decay": 0.1}, "weight_decay=0.1 .*give it in method_options"),
        ({"optim": "sgd"}, "the method is the optimizer"),
        ({"activation_checkpointing": True}, "there is no backward pass"),
        ({"auto_find_batch_size": True}, "another batch size is another run"),
        ({"torch_compile": True}, "compile the model yourself"),
        ({"eval_on_start": True}, r"call evaluate\(\) before train\(\)"),
        ({"ignore_data_skip": True}, "a resumed run would see other rows"),
        ({"restore_callback_states_from_checkpoint": False}, "would stop at another step. Leave it True"),
        ({"push_to_hub": True, "hub_strategy": "every_save"}, "hub_strategy='every_save' writes a pickle"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        make(tmp_path, **settings)


def test_more_than_one_process_is_refused_before_transformers_waits_for_them(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE is 2: distributed runs are not supported yet"):
        make(tmp_path)


def test_rows_order_follows_the_seed(tmp_path):
    assert make(tmp_path, seed=5).data_seed == 5
    assert make(tmp_path, seed=5, data_seed=6).data_seed == 6


def test_copies_are_equal(tmp_path):
    args = make(tmp_path, method="lozo", method_options={"rank": 3}, learning_rate=1e-4)
    for other in (
        copy.deepcopy(args),
        dataclasses.replace(args),
        ZOTrainingArguments(**args.to_dict()),
        ZOTrainingArguments(**json.loads(args.to_json_string())),
    ):
        assert other.zo_method == args.zo_method
        assert other.to_dict() == args.to_dict()


def test_command_line_of_transformers(tmp_path):
    options = '{"rank": 4, "matrix_lr_scale": 0.5}'
    line = f"--output_dir {tmp_path} --use_cpu --report_to none"
    line += " --method lozo --engine in_place --learning_rate 1e-5"
    (args,) = HfArgumentParser(ZOTrainingArguments).parse_args_into_dataclasses(
        [*line.split(), "--method_options", options]
    )
    assert args.zo_method.describe() == {
        **METHODS.get("lozo")().describe(),
        "rank": 4,
        "matrix_lr_scale": 0.5,
        "lr": 1e-5,
    }
    assert args.engine == "in_place"
    (args,) = HfArgumentParser(ZOTrainingArguments).parse_dict(
        {
            "output_dir": str(tmp_path),
            "use_cpu": True,
            "report_to": "none",
            "method_options": {"zo_eps": 1e-2},
        }
    )
    assert args.zo_method.zo_eps == 1e-2
