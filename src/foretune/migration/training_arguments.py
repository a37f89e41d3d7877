"""The flags that every research code inherits from transformers' TrainingArguments."""

from __future__ import annotations

import math

from foretune.migration.flags import anyway, read, table, to, without
from foretune.migration.reading import Reading

_ONE_DEVICE = "foretune runs on one device"
_JOURNAL = "a run's folder has metrics.jsonl and results.json; --report-to sends figures to trackers, into that folder"
_EVERY_STEP = "dev rows are scored and checkpoints written every --eval-steps steps"
_NO_GRADIENT = "there is no gradient"
_WORKERS = "rows are tokenized once, before training"

TRAINING_ARGUMENTS = table(
    to("output_dir", "output"),
    to("logging_steps", "log_steps", int),
    to("per_device_eval_batch_size", "eval_batch_size", int),
    to("seed", "seed", int),
    read("learning_rate", "--lr", float),
    read("per_device_train_batch_size", "--batch-size", int),
    read("gradient_accumulation_steps", "--gradient-accumulation-steps", int),
    read("max_steps", "--steps", int),
    read("num_train_epochs", "--steps, counted", float),
    read("eval_steps", "--eval-steps", int),
    read("save_steps", "--eval-steps", int),
    read("lr_scheduler_type", "--lr-scheduler"),
    read("warmup_steps", "--warmup-steps", int),
    read("warmup_ratio", "--warmup-steps", float),
    read("weight_decay", "--method.weight_decay", float),
    read("max_grad_norm", "--method.max_grad_norm", float, reader="a first-order trainer"),
    read("optim", "--method", reader="a first-order trainer"),
    anyway("do_train", True, lacks="foretune train trains; foretune evaluate does not"),
    anyway("do_eval", True, False, lacks="dev rows are scored anyway"),
    anyway("do_predict", True, False, lacks="test rows are scored anyway"),
    read("evaluation_strategy", "--eval-steps"),
    read("eval_strategy", "--eval-steps"),
    anyway("save_strategy", "steps", "epoch", "no", lacks=_EVERY_STEP),
    anyway("logging_strategy", "steps", lacks="the log has a line every --log-steps steps"),
    anyway("evaluate_during_training", True, lacks=_EVERY_STEP),
    anyway(
        "load_best_model_at_end", True, lacks="the final model is that of the best dev figure; --num-dev 0 has none"
    ),
    anyway(
        "metric_for_best_model",
        "loss",
        "eval_loss",
        lacks="causal models are selected by dev loss, masked ones by dev accuracy",
    ),
    anyway("greater_is_better", False, True, lacks="it follows from the metric"),
    anyway("save_total_limit", 1, 2, lacks="foretune keeps the last checkpoint and the best one"),
    anyway("overwrite_output_dir", False, lacks="foretune overwrites no run: give another --output, or --resume"),
    anyway("remove_unused_columns", True, False, lacks="a task reads the columns it needs"),
    anyway("logging_first_step", True, False, lacks="the log begins with the first --log-steps steps"),
    anyway("disable_tqdm", True, False, lacks="the progress bar is shown on a terminal only"),
    anyway("report_to", "none", "None", "[]", lacks=_JOURNAL),
    anyway("run_name", "", lacks="the name of a run is that of its folder"),
    anyway("logging_dir", "", lacks=_JOURNAL),
    anyway("fp16", False, lacks="there is no mixed precision here; --dtype float16 loads the weights in it"),
    anyway("bf16", False, lacks="there is no mixed precision here; --dtype bfloat16 loads the weights in it"),
    anyway("fp16_full_eval", False, lacks="evaluations have the dtype of training"),
    anyway("no_cuda", False, lacks="give --device cpu"),
    anyway("gradient_checkpointing", False, lacks=f"{_NO_GRADIENT} to save memory for"),
    anyway("dataloader_num_workers", 0, lacks=_WORKERS),
    anyway("dataloader_pin_memory", True, False, lacks=_WORKERS),
    anyway("dataloader_drop_last", False, lacks="no row is dropped"),
    anyway("group_by_length", False, lacks="rows come in random order"),
    anyway("ddp_find_unused_parameters", True, False, lacks=_ONE_DEVICE),
    anyway("local_rank", -1, 0, lacks=_ONE_DEVICE),
    anyway("push_to_hub", False, lacks="foretune.ZOTrainer has the hub's methods"),
    without("fsdp", _ONE_DEVICE),
    without("fsdp_transformer_layer_cls_to_wrap", _ONE_DEVICE),
    without("fsdp_config", _ONE_DEVICE),
    without("deepspeed", _ONE_DEVICE),
    without("sharded_ddp", _ONE_DEVICE),
    without("resume_from_checkpoint", "foretune resumes its own runs, --resume"),
    without("adam_beta1", "--method.betas, with a method of the Adam family"),
    without("adam_beta2", "--method.betas, with a method of the Adam family"),
    without("label_smoothing_factor", "the losses are those of the papers, without it"),
    without("data_seed", "one --seed is for directions and the order of rows"),
)
"""What transformers' own names mean here."""

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")
"""Learning-rate schedules of foretune; they are spelled as there."""


def read_steps(reading: Reading, *, published: int, rows: int | None) -> int:
    """Set ``steps``: those that are given, or those of so many passes over the rows.

    Args:
        reading: Where `per_device_train_batch_size` is set already.
        published: Steps of the published protocol, if neither is given.
        rows: Training rows, if that is known.
    """
    steps, epochs = reading.get("max_steps"), reading.get("num_train_epochs")
    if steps is not None and steps > 0:
        if epochs is not None:
            reading.note("ignored there", "num_train_epochs", "max_steps overrides it", "transformers")
    elif epochs is not None:
        if rows is None:
            raise reading.refuse("num_train_epochs", "how many steps that is depends on the rows; give --max_steps.")
        per_step = reading.options["batch_size"] * reading.options.get("gradient_accumulation_steps", 1)
        steps = math.ceil(math.ceil(rows / per_step) * epochs)
        reading.note(
            "differs",
            "num_train_epochs",
            f"foretune counts steps: {steps} for {rows} rows, fewer if the split has fewer",
        )
    else:
        steps = published
        reading.note("not given", "--max_steps", str(published))
    reading.set("steps", steps)
    return steps


def read_evaluations(reading: Reading, *, published: int) -> None:
    """Set ``eval_steps``; checkpoints are written at the same steps.

    Args:
        reading: Where ``steps``, ``batch_size`` and, for evaluations after each epoch, ``num_train`` are set already.
        published: Steps between evaluations of the published protocol, if none are given.
    """
    eval_steps, save_steps = reading.get("eval_steps"), reading.get("save_steps")
    flag = "eval_strategy" if reading.has("eval_strategy") else "evaluation_strategy"
    strategy = reading.get(flag)
    reading.get("evaluation_strategy")
    if strategy == "epoch" and "num_train" in reading.options:
        eval_steps = math.ceil(reading.options["num_train"] / reading.options["batch_size"])
        reading.note("differs", flag, f"foretune counts steps: {eval_steps} for {reading.options['num_train']} rows")
    elif strategy not in (None, "steps"):
        reading.note("no counterpart", flag, _EVERY_STEP)
    if eval_steps is None:
        eval_steps = save_steps or min(published, reading.options["steps"])
        reading.note("not given", "--eval_steps", str(eval_steps))
    elif save_steps is not None and save_steps != eval_steps:
        reading.note(
            "no counterpart", "save_steps", f"checkpoints are written at evaluations, every {eval_steps} steps"
        )
    reading.set("eval_steps", eval_steps)


def read_schedule(reading: Reading, *, ignored: str = "") -> None:
    """Set the learning-rate schedule.

    Args:
        reading: Where ``steps`` is set already.
        ignored: Where the published code shows that its schedules reach no update; empty where they do.
    """
    name = reading.get("lr_scheduler_type")
    warmup, ratio = reading.get("warmup_steps", 0), reading.get("warmup_ratio", 0.0)
    if name is None:
        reading.note("not given", "--lr_scheduler_type", "constant")
        name = "constant"
    steps = warmup or math.ceil(ratio * reading.options["steps"])
    follow = f"--lr-scheduler {name}" + (f" --warmup-steps {steps}" if steps and name != "constant" else "")
    if ignored and name != "constant":
        hint = f"; {follow} follows it" if name in SCHEDULES else ""
        reading.note("ignored there", "lr_scheduler_type", f"the learning rate stayed constant{hint}", ignored)
        name = "constant"
    elif name not in SCHEDULES:
        reading.note("no counterpart", "lr_scheduler_type", f"foretune has {', '.join(SCHEDULES)}; constant is written")
        name = "constant"
    if name == "constant":
        for flag in ("warmup_steps", "warmup_ratio"):
            if reading.get(flag):
                reading.note(
                    "ignored there", flag, "a constant learning rate has no warm-up", ignored or "transformers"
                )
    elif steps:
        reading.set("warmup_steps", steps)
    reading.set("lr_scheduler", name)
