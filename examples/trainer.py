"""The Trainer of transformers with zeroth-order steps, and a callback that writes for TensorBoard."""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations import TensorBoardCallback

from foretune import ZOTrainer, ZOTrainingArguments

torch.manual_seed(0)
# a real one: model = AutoModelForCausalLM.from_pretrained("facebook/opt-125m"), and learning_rate=1e-6
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **size))
rows = [{"input_ids": [5, 9, 2, 7] * 4, "labels": [5, 9, 2, 7] * 4} for _ in range(4)]

args = ZOTrainingArguments(
    output_dir=tempfile.mkdtemp(prefix="foretune-"),
    method="mezo",
    method_options={"num_directions": 4},
    learning_rate=5e-3,
    max_steps=100,
    per_device_train_batch_size=1,
    logging_steps=10,
    disable_tqdm=True,
    report_to="none",  # the callback is given below; report_to="tensorboard" would do the same
)
trainer = ZOTrainer(model=model, args=args, train_dataset=rows, callbacks=[TensorBoardCallback()])
trainer.train()
losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
print(f"tensorboard --logdir {args.output_dir}")
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
