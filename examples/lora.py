"""Tune a LoRA adapter of peft: what requires a gradient is what moves, although none is taken."""

import tempfile

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import foretune

torch.manual_seed(0)
# a real one: base = AutoModelForCausalLM.from_pretrained("facebook/opt-125m"), and lr=1e-4
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
base = LlamaForCausalLM(LlamaConfig(vocab_size=64, initializer_range=0.2, **size))
texts = torch.randint(10, 64, (64, 6))
labels = torch.randint(0, 2, (64,))
texts[:, 2] = 2 + labels  # one word of each text says what is right

model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
optimizer = foretune.ZOBCD(model, lr=0.03, zo_eps=1e-2)  # moves the two factors of LoRA in turn
losses = []
for _ in range(200):
    losses.append(optimizer.step(lambda: nn.functional.cross_entropy(model(texts).logits[:, -1, :2], labels)).item())
model.save_pretrained(tempfile.mkdtemp(prefix="foretune-"))  # the adapter alone, loadable by peft
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
