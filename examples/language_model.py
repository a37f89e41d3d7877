"""Tune a Hugging Face model: an optimizer, and a closure that returns the loss."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import foretune

torch.manual_seed(0)
# a real one: model = AutoModelForCausalLM.from_pretrained("facebook/opt-125m"), and lr=1e-6, num_directions=1
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **size))
# a real one: batch = AutoTokenizer.from_pretrained("facebook/opt-125m")("It was great.", return_tensors="pt")
batch = {"input_ids": torch.tensor([[5, 9, 2, 7] * 4])}

optimizer = foretune.MeZO(model, lr=5e-3, zo_eps=1e-3, num_directions=4)
losses = []
for _ in range(100):
    losses.append(optimizer.step(lambda: model(**batch, labels=batch["input_ids"]).loss).item())
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
