"""Tiny models with random weights, one for each way in which a model can hold and read its weights.

Every builder returns a model in training mode. `closure_of(model)` returns a closure over fixed data that any
copy of the model can be measured with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 40
HIDDEN = 16
MASK_ID = 3


# ---------------------------------------------------------------- language models


def _sizes(**others: object) -> dict[str, object]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        **others,
    }


def opt(num_layers: int = 2, **others: object) -> nn.Module:
    """Tied embeddings, learned positions with an offset, biases everywhere, dropout."""
    from transformers import OPTConfig, OPTForCausalLM

    sizes = _sizes(ffn_dim=24, word_embed_proj_dim=HIDDEN, **others)
    return _seeded(lambda: OPTForCausalLM(OPTConfig(**{**sizes, "num_hidden_layers": num_layers})))


def llama() -> nn.Module:
    """Grouped queries, rotary positions, RMS norm, no bias, an untied head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**_sizes(intermediate_size=24, num_key_value_heads=2))
    return _seeded(lambda: LlamaForCausalLM(config))


def qwen2() -> nn.Module:
    """As LLaMA, with biases on queries, keys and values, and tied embeddings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**_sizes(intermediate_size=24, num_key_value_heads=2, tie_word_embeddings=True))
    return _seeded(lambda: Qwen2ForCausalLM(config))


def mistral(sliding_window: int = 4) -> nn.Module:
    """As LLaMA, with a sliding window."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(**_sizes(intermediate_size=24, num_key_value_heads=2, sliding_window=sliding_window))
    return _seeded(lambda: MistralForCausalLM(config))


def qwen3() -> nn.Module:
    """As Qwen2, with norms of queries and keys in place of biases."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return _seeded(
        lambda: Qwen3ForCausalLM(Qwen3Config(**_sizes(intermediate_size=24, num_key_value_heads=2, head_dim=4)))
    )


def gemma() -> nn.Module:
    """Embeddings that are scaled on the way in, and tied."""
    from transformers import GemmaConfig, GemmaForCausalLM

    return _seeded(
        lambda: GemmaForCausalLM(GemmaConfig(**_sizes(intermediate_size=24, num_key_value_heads=2, head_dim=4)))
    )


def gemma2() -> nn.Module:
    """Capped logits, and layers with and without a sliding window."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        **_sizes(
            intermediate_size=24, num_key_value_heads=2, head_dim=4, sliding_window=16, final_logit_softcapping=2.0
        )
    )
    return _seeded(lambda: Gemma2ForCausalLM(config))


def bloom() -> nn.Module:
    """Positions as linear biases (ALiBi)."""
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=VOCABULARY, hidden_size=HIDDEN, n_layer=2, n_head=4, pad_token_id=1)
    return _seeded(lambda: BloomForCausalLM(config))


def mamba() -> nn.Module:
    """A recurrent state in place of attention."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=2, state_size=4)
    return _seeded(lambda: MambaForCausalLM(config))


def gpt2() -> nn.Module:
    """Conv1D weights (in x out), tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=2,
        n_head=4,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return _seeded(lambda: GPT2LMHeadModel(config))


def roberta() -> nn.Module:
    """A masked language model: a head that owns its decoder's bias, and a decoder tied to the embeddings."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    return _seeded(lambda: RobertaForMaskedLM(RobertaConfig(**_sizes(intermediate_size=24))))


def mixtral() -> nn.Module:
    """Experts in one three-dimensional weight."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        **_sizes(intermediate_size=24, num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2)
    )
    return _seeded(lambda: MixtralForCausalLM(config))


def qwen2_moe() -> nn.Module:
    """Experts, a shared expert and its gate."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    config = Qwen2MoeConfig(
        **_sizes(
            intermediate_size=24,
            num_key_value_heads=2,
            num_experts=3,
            num_experts_per_tok=2,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
        )
    )
    return _seeded(lambda: Qwen2MoeForCausalLM(config))


def causal_closure(model: nn.Module) -> Callable[[], Tensor]:
    """Next-token loss on two rows, the second one padded on the left."""
    input_ids = torch.tensor([[4, 9, 17, 5, 30, 11], [1, 1, 8, 4, 4, 21]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])

    def closure() -> Tensor:
        logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(logits[:, -4:-1].flatten(0, 1), input_ids[:, -3:].flatten())

    return closure


def masked_closure(model: nn.Module) -> Callable[[], Tensor]:
    """Cross entropy of the word at the mask."""
    input_ids = torch.tensor([[0, 9, MASK_ID, 5, 2], [0, 8, 4, MASK_ID, 2]])

    def closure() -> Tensor:
        logits = model(input_ids=input_ids).logits.float()
        return functional.cross_entropy(logits[input_ids == MASK_ID], torch.tensor([7, 12]))

    return closure


def with_adapter(base: Callable[[], nn.Module], kind: str) -> nn.Module:
    """A language model under peft: kind is lora, prefix or prompt."""
    from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model

    config = {
        "lora": lambda: LoraConfig(r=2, lora_dropout=0.1, init_lora_weights=False, task_type=TaskType.CAUSAL_LM),
        "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=3, task_type=TaskType.CAUSAL_LM),
        "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3, task_type=TaskType.CAUSAL_LM),
    }[kind]()
    model = base()
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return _seeded(lambda: get_peft_model(model, config))


# ---------------------------------------------------------------- modules


class TransformerLayer(nn.Module):
    """torch's own encoder layer, which has a fast path for evaluation that reads its children's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(HIDDEN, 4, 24, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).square().mean()


class Attention(nn.Module):
    """nn.MultiheadAttention, which reads the weight of its output projection without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0].square().mean()


class Recurrent(nn.Module):
    """nn.LSTM holds its weights in a list beside its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(HIDDEN, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0]).square().mean()


class Lists(nn.Module):
    """Weights in nested ParameterList and ParameterDict, which are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.randn(HIDDEN)) for _ in range(2)])
        self.named = nn.ParameterDict({"inner": nn.ParameterList([nn.Parameter(torch.randn(HIDDEN, 3))])})

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = x * scale
        return (x @ self.named["inner"][0]).tanh().mean()


class Nested(nn.Module):
    """Owns tensors beside a child it calls, one of them shared with that child, one of them tied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(HIDDEN, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.scale = nn.Parameter(torch.randn(HIDDEN))
        self.bias = self.child.bias
        self.norm.bias = self.child.bias

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.child(x * self.scale)) * self.scale + self.bias).square().mean()


class Shared(nn.Module):
    """Calls one layer several times."""

    def __init__(self, num_calls: int) -> None:
        super().__init__()
        self.num_calls = num_calls
        self.layer = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.num_calls):
            x = self.layer(x).tanh()
        return x.square().mean()


class GivesItself(nn.Module):
    """A module that returns its own weight, as it is or as a view."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.view = view
        self.weight = nn.Parameter(torch.randn(HIDDEN, HIDDEN))

    def forward(self) -> Tensor:
        return self.weight.t()[:, 1:] if self.view else self.weight


class TakesFromChild(nn.Module):
    """Multiplies by what `GivesItself` returned."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.table = GivesItself(view)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.table()).tanh().mean()


class ReadsElsewhere(nn.Module):
    """Reads the weight of a child (also) in its own forward, by one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.child = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return WAYS[self.way](self, self.child(x)).float().tanh().mean()


@torch.jit.script
def _scripted_product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


class _CustomProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None]:
        raise NotImplementedError


WAYS: dict[str, Callable[[ReadsElsewhere, Tensor], Tensor]] = {
    "function": lambda m, x: functional.linear(x, m.child.weight),
    "keyword": lambda m, x: functional.linear(input=x, weight=m.child.weight),
    "operator": lambda m, x: torch.ops.aten.mm.default(x.flatten(0, -2), m.child.weight),
    "indexing": lambda m, x: x * m.child.weight[0],
    "data": lambda m, x: x @ m.child.weight.data,
    "alias": lambda m, x: x @ m.alias[0],
    "scripted": lambda m, x: _scripted_product(x, m.child.weight),
    "autograd_function": lambda m, x: _CustomProduct.apply(x, m.child.weight),
    "functional_call": lambda m, x: torch.func.functional_call(m.child, {"weight": m.child.weight.t()}, (x,)),
    "vmap": lambda m, x: torch.vmap(lambda row: row @ m.child.weight)(x),
    "method": lambda m, x: m.child.forward(x),
    "address": lambda m, x: x + 0.0 * (m.child.weight.data_ptr() == 0),
    "stack": lambda m, x: x + torch.stack([m.child.weight, m.child.weight]).sum(),
}
"""Ways of reading a weight where its owner does not run."""

SIMPLE_WAYS = [way for way in WAYS if way not in ("alias", "method")]


class LooksAtMetadata(nn.Module):
    """Asks a child's weight for everything but its values."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.child.weight
        x = x.to(weight.device).to(weight.dtype).to(device=weight.device, dtype=weight.dtype)
        assert weight.shape[0] == weight.size(1) == len(weight) == HIDDEN
        assert weight.dim() == weight.ndim == 2
        assert weight.numel() == HIDDEN**2
        assert torch.is_floating_point(weight)
        assert not weight.is_cuda
        assert weight.is_contiguous()
        assert weight.stride() == (HIDDEN, 1)
        zeros = weight.new_zeros(HIDDEN) + torch.zeros_like(weight)[0] + torch.empty_like(weight).zero_()[0]
        return (self.child(x) + zeros + torch.finfo(weight.dtype).tiny).tanh().mean()


class Embeddings(nn.Module):
    """Looks up rows, once by position and once by keyword, with a table that the head reads as a whole."""

    def __init__(self, dtype: torch.dtype = torch.float32, index_dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.index_dtype = index_dtype
        self.words = nn.Embedding(VOCABULARY, HIDDEN, dtype=dtype)
        self.positions = nn.Embedding(8, HIDDEN, dtype=dtype)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=dtype)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.index_dtype)
        places = torch.arange(x.shape[1], dtype=self.index_dtype)
        logits = self.head(self.words(x) + self.positions(input=places))
        return functional.cross_entropy(logits.float().flatten(0, 1), x.flatten().long())


class Stack(nn.Module):
    """A chain of equal blocks, each larger than all that runs beside it."""

    def __init__(self, num_layers: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 64), nn.GELU(), nn.Linear(64, HIDDEN))
            for _ in range(num_layers)
        ).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.layers[0][0].weight.dtype)
        for layer in self.layers:
            x = x + layer(x)
        return x.float().square().mean()


def data_closure(model: nn.Module) -> Callable[[], Tensor]:
    """The model's own loss on fixed features, shape (3, 5, HIDDEN)."""
    x = torch.randn(3, 5, HIDDEN, generator=torch.Generator().manual_seed(7))
    return lambda: model(x)


def alias_closure(model: nn.Module) -> Callable[[], Tensor]:
    """As `data_closure`, of a module that holds its weight a second time, not as a parameter."""
    model.alias = (model.child.weight.detach().t(),)
    return data_closure(model)


def token_closure(model: nn.Module) -> Callable[[], Tensor]:
    """The model's own loss on fixed tokens, shape (2, 4), some of them repeated."""
    tokens = torch.tensor([[4, 9, 4, 39], [0, 9, 9, 21]])
    return lambda: model(tokens)


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = build()
        for parameter in model.parameters():
            # biases and norm weights too: zeros and ones would hide what was not perturbed
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
    return model.train()


# ---------------------------------------------------------------- the zoo


@dataclass(frozen=True)
class Entry:
    """A model, its closure, and what the audit must say about it.

    Attributes:
        obstacle: Part of the reason why layerwise cannot serve; None if it can.
    """

    name: str
    build: Callable[[], nn.Module]
    closure_of: Callable[[nn.Module], Callable[[], Tensor]]
    obstacle: str | None = None

    @property
    def engine(self) -> str:
        """The engine that `auto` must choose."""
        return "layerwise" if self.obstacle is None else "in_place"


def _of(cls: Callable[..., nn.Module], *args: object) -> Callable[[], nn.Module]:
    return lambda: _seeded(lambda: cls(*args))


ZOO = [
    *(Entry(f.__name__, f, causal_closure) for f in (opt, llama, qwen2, mistral, gpt2, mixtral, qwen2_moe)),
    Entry("roberta", roberta, masked_closure),
    *(
        Entry(f"{base.__name__}_{kind}", lambda base=base, kind=kind: with_adapter(base, kind), causal_closure)
        for base in (opt, llama)
        for kind in ("lora", "prefix", "prompt")
    ),
    Entry("lstm", _of(Recurrent), data_closure),
    Entry("lists", _of(Lists), data_closure),
    Entry("nested", _of(Nested), data_closure),
    Entry("called_twice", _of(Shared, 2), data_closure),
    Entry("metadata", _of(LooksAtMetadata), data_closure),
    Entry("embeddings", _of(Embeddings), token_closure),
    Entry("embeddings_int32", _of(Embeddings, torch.float32, torch.int32), token_closure),
    Entry("stack", _of(Stack, 3), data_closure),
    Entry("attention", _of(Attention), data_closure),
    Entry("transformer_layer", _of(TransformerLayer), data_closure),
    Entry("called_thrice", _of(Shared, 3), data_closure, "module 'layer' is called 3 times"),
    Entry("gives_itself", _of(TakesFromChild, False), data_closure, "module 'table' returns its own weight"),
    Entry("gives_a_view", _of(TakesFromChild, True), data_closure, "module 'table' returns its own weight"),
    *(Entry(f"reads_{way}", _of(ReadsElsewhere, way), data_closure, "'child.weight'") for way in SIMPLE_WAYS),
    Entry("reads_alias", _of(ReadsElsewhere, "alias"), alias_closure, "'child.weight'"),
    Entry("reads_method", _of(ReadsElsewhere, "method"), data_closure, "'child.bias' (and 1 more)"),
]
"""Every model, with the verdict the audit must reach."""
