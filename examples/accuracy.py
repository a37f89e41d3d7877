"""Tune a language model on its error rate: a step function of the weights, which has no gradient."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import foretune

torch.manual_seed(0)
# a real one: model = AutoModelForCausalLM.from_pretrained("facebook/opt-125m"), texts and label words of a tokenizer
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **size))
texts = torch.randint(10, 64, (64, 6))
labels = torch.randint(0, 2, (64,))
texts[:, 2] = 2 + labels  # one word of each text says what is right
label_words = torch.tensor([0, 1])


@torch.no_grad()
def error_rate() -> float:
    """Share of texts after which the wrong label word is more likely; a reward would be returned with a minus."""
    scores = model(input_ids=texts).logits[:, -1, label_words]
    return (scores.argmax(dim=1) != labels).float().mean().item()


before = error_rate()
# the scale is larger than for a loss, so that the two sides of a step differ in some rows
optimizer = foretune.MeZO(model, lr=1e-2, zo_eps=1e-2, num_directions=8)
for _ in range(40):
    optimizer.step(error_rate)
print(f"error rate {before:.3f} -> {error_rate():.3f}")
