"""Tuning schemes: the tensors that train, as an adapter of peft or the model itself.

    model = LoRATuning(r=8).attach(model, seed=0)

An adapter is a pure function of base model, settings and seed: replay builds it again. Its tensors are float32
(float64 on a float64 model), the base keeps its dtype and is frozen. The global generators are left as they were.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from foretune import noise
from foretune.errors import IncompatibleError, UsageError, near_misses
from foretune.noise import Noise, Purpose, stream_id

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

Init = Literal["real", "random"]

QUERY_VALUE = (("q_proj", "v_proj"), ("query", "value"), ("q_lin", "v_lin"), ("q", "v"))
"""How the models of transformers call the query and value projections of an attention layer."""
FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv")
"""How they call one projection that makes queries, keys and values together."""

_RANDOM_PREFIX_STD = 0.02


class AbstractTuning(abc.ABC):
    """Settings of a tuning scheme; schemes are frozen dataclasses."""

    name: ClassVar[str]

    @abc.abstractmethod
    def attach(self, model: PreTrainedModel, *, seed: int, revision: str | None = None) -> PreTrainedModel | PeftModel:
        """Return the model whose tensors with `requires_grad` are those of the scheme.

        Args:
            model: The base model; LoRA puts its layers into it.
            seed: The run's seed.
            revision: Of the base model on the hub; a saved adapter names it.
        Raises:
            IncompatibleError: the scheme cannot serve this model; the message says what it lacks.
        """

    def describe(self) -> dict[str, Any]:
        """Return name and settings, from which `make_tuning` builds the scheme again."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True, slots=True)
class FullTuning(AbstractTuning):
    """All parameters train, tied ones (embedding and head) as one."""

    name: ClassVar[str] = "full"

    def attach(self, model: PreTrainedModel, *, seed: int, revision: str | None = None) -> PreTrainedModel:
        """Return the model as it is."""
        return model


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRATuning(AbstractTuning):
    """Low-rank matrices beside the query and value projections of every attention layer.

        y = W x + (alpha / r) B (A x)

    A starts uniform on (-1/sqrt(in), 1/sqrt(in)), B at 0, so the first output is the base model's. No dropout, no
    bias. A projection that makes queries, keys and values together (GPT-2's c_attn) is adapted as a whole.
    Trainable: r (in + out) per projection.

    Args:
        r: Rank. Published: 8.
        alpha: Scale, divided by r. Published: 16.
    References:
        Hu et al. 2021, arXiv:2106.09685, Eq. 3; settings of Malladi et al. 2023, arXiv:2305.17333.
        Differs from the published code: sizes are those of the wrapped layer, so grouped-query attention works.
    """

    name: ClassVar[str] = "lora"

    r: int = 8
    alpha: int = 16

    def __post_init__(self) -> None:
        _at_least("r", self.r, 1)
        _at_least("alpha", self.alpha, 1)

    def attach(self, model: PreTrainedModel, *, seed: int, revision: str | None = None) -> PeftModel:
        """Put an adapter beside the projections."""
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        targets = find_query_value(model)
        transposed = any(name.endswith(targets) and type(module) is Conv1D for name, module in model.named_modules())
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            target_modules=list(targets),
            fan_in_fan_out=transposed,
            task_type="CAUSAL_LM" if model.can_generate() else None,
        )
        adapted = _wrap(model, config, revision)
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:
                parameter.data.copy_(_uniform(parameter.shape, name, seed) / math.sqrt(parameter.shape[1]))
        return adapted


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixTuning(AbstractTuning):
    """Keys and values of virtual tokens in front of every attention layer's own.

    They start as the frozen model's for as many random tokens of its vocabulary: keys as they lie in the cache, with
    their rotation, and the text follows at the next positions, so that the first output is that of the tokens followed
    by the text. Trainable: one tensor (p, 2 L kv), L layers, kv = key/value heads x head size; no reparametrisation.

    Args:
        num_virtual_tokens: Length p. Published: 5.
        init: Activations of real tokens, or noise of standard deviation 0.02.
    References:
        Li and Liang 2021, arXiv:2101.00190; settings of Malladi et al. 2023, arXiv:2305.17333.
        Differs from the published code: positions do not overlap, and grouped-query attention works.
    """

    name: ClassVar[str] = "prefix"

    num_virtual_tokens: int = 5
    init: Init = "real"

    def __post_init__(self) -> None:
        _at_least("num_virtual_tokens", self.num_virtual_tokens, 1)
        _one_of("init", self.init, ("real", "random"))

    def attach(self, model: PreTrainedModel, *, seed: int, revision: str | None = None) -> PeftModel:
        """Put the keys and values in front."""
        from peft import PrefixTuningConfig, initialize_kv_prefix_from_past_key_values

        _check_room(model, self.num_virtual_tokens)
        tokens = _random_tokens(model, self.num_virtual_tokens, seed)
        try:
            cache = _cache_of(model, tokens)
            keys = [layer[0] for layer in cache]
            if not keys:
                raise ValueError("it keeps none.")
            _, num_heads, _, head_size = keys[0].shape
            config = PrefixTuningConfig(
                task_type="CAUSAL_LM",
                num_virtual_tokens=self.num_virtual_tokens,
                num_layers=len(keys),
                num_attention_heads=num_heads,
                token_dim=num_heads * head_size,
            )
            adapted = _wrap(model, config, revision)
            initialize_kv_prefix_from_past_key_values(adapted, past_key_values=cache)
        except (AttributeError, TypeError, ValueError) as error:
            raise IncompatibleError(
                f"--tuning prefix needs keys and values of one shape in every layer, which {type(model).__name__} "
                f"does not have: {error} Use lora or prompt."
            ) from error
        if self.init == "random":
            _fill_gaussian(adapted, seed, std=_RANDOM_PREFIX_STD)
        return adapted


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTuning(AbstractTuning):
    """Embeddings of virtual tokens in front of the text's own.

    They start as those of random tokens of the vocabulary, so that the first output is that of the tokens followed by
    the text. Trainable: one tensor (num_virtual_tokens, embedding size).

    Args:
        num_virtual_tokens: Published: 10.
        init: Embeddings of real tokens, or noise of their standard deviation.
    References:
        Lester et al. 2021, arXiv:2104.08691; settings of Zhang et al. 2024, arXiv:2402.11592.
        Differs from the published code: random embeddings have the scale of real ones.
    """

    name: ClassVar[str] = "prompt"

    num_virtual_tokens: int = 10
    init: Init = "real"

    def __post_init__(self) -> None:
        _at_least("num_virtual_tokens", self.num_virtual_tokens, 1)
        _one_of("init", self.init, ("real", "random"))

    def attach(self, model: PreTrainedModel, *, seed: int, revision: str | None = None) -> PeftModel:
        """Put the embeddings in front."""
        from peft import PromptTuningConfig

        _check_room(model, self.num_virtual_tokens)
        with torch.no_grad(), _one_thread():
            tokens = _random_tokens(model, self.num_virtual_tokens, seed)
            embeddings = model.get_input_embeddings()(tokens)[0].float()
        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            token_dim=embeddings.shape[1],
            # not used, but peft asks for them where it does not know a model's own words
            num_attention_heads=getattr(model.config, "num_attention_heads", 1),
            num_layers=getattr(model.config, "num_hidden_layers", 1),
        )
        adapted = _wrap(model, config, revision)
        if self.init == "real":
            _virtual_tokens(adapted).data.copy_(embeddings)
        else:
            with _one_thread():
                _fill_gaussian(adapted, seed, std=float(embeddings.std()))
        return adapted


TUNINGS: Mapping[str, type[AbstractTuning]] = {
    scheme.name: scheme for scheme in (FullTuning, LoRATuning, PrefixTuning, PromptTuning)
}


def tuning_class(name: str) -> type[AbstractTuning]:
    """Return the scheme of this name.

    Raises:
        UsageError: there is none; near misses are suggested.
    """
    if name not in TUNINGS:
        raise UsageError(f"Unknown tuning scheme {name!r}.{near_misses(str(name), TUNINGS)}")
    return TUNINGS[name]


def make_tuning(settings: Mapping[str, Any]) -> AbstractTuning:
    """Build a scheme from its name and settings, as `describe` gives them; None stands for the default.

    Raises:
        UsageError: unknown scheme or option (near misses suggested), or a setting out of range.
    """
    scheme = tuning_class(settings["name"])
    options = {option: value for option, value in settings.items() if option != "name" and value is not None}
    known = [field.name for field in fields(scheme)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            hint = near_misses(option, known) if known else ""
            raise UsageError(f"--tuning {scheme.name} has no option {option!r}.{hint}")
    return scheme(**options)


def find_query_value(model: nn.Module) -> tuple[str, ...]:
    """Return what a model calls its query and value projections, by looking at its attention layers.

    Raises:
        IncompatibleError: nothing that is known was found.
    """
    from transformers.pytorch_utils import Conv1D

    for names in (*QUERY_VALUE, *((fused,) for fused in FUSED)):
        for module in model.modules():
            if all(isinstance(getattr(module, name, None), nn.Linear | Conv1D) for name in names):
                return names
    known = ", ".join(" and ".join(names) for names in QUERY_VALUE) + ", " + ", ".join(FUSED)
    raise IncompatibleError(
        f"--tuning lora finds no query and value projections in {type(model).__name__} (it looks for {known}). "
        "Attach an adapter with peft and train it from Python, or use another scheme."
    )


# ---------------------------------------------------------------- helpers


@contextmanager
def peft_warnings_hidden() -> Iterator[None]:
    """Hide what peft 0.21 warns about whenever it meets transformers 5: it asks for a property by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        yield


def _wrap(model: PreTrainedModel, config: PeftConfig, revision: str | None) -> PeftModel:
    from peft import get_peft_model

    model.requires_grad_(False)
    with peft_warnings_hidden(), torch.random.fork_rng(devices=[]):  # peft draws numbers that we replace
        adapted = get_peft_model(model, config, revision=revision)
    if config.is_prompt_learning and model.dtype == torch.float64:
        adapted.prompt_encoder.to(torch.float64)
    return adapted  # type: ignore[return-value]


def _virtual_tokens(adapted: PeftModel) -> Tensor:
    return adapted.prompt_encoder[adapted.active_adapter].embedding.weight  # type: ignore[index, union-attr]


def _random_tokens(model: PreTrainedModel, number: int, seed: int) -> Tensor:
    """Draw token ids, shape (1, number): a pure function of seed, place and the size of the vocabulary."""
    key = noise.mix(seed, Purpose.INITIAL)
    size: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[assignment]
    return torch.tensor([[noise.mix(key, index) % size for index in range(number)]], device=model.device)


def _uniform(shape: tuple[int, ...], name: str, seed: int) -> Tensor:
    """Return numbers uniform on (-1, 1), of 65536 values, float32."""
    lanes = noise.lanes(shape, Noise(noise.mix(seed, 0), stream_id(name), Purpose.INITIAL))
    return (lanes.float() + 0.5) / 2**15 - 1


def _fill_gaussian(adapted: PeftModel, seed: int, *, std: float) -> None:
    out = _virtual_tokens(adapted).data
    noise.fill(out, Noise(noise.mix(seed, 0), stream_id("virtual tokens"), Purpose.INITIAL)).mul_(std)


@torch.no_grad()
def _cache_of(model: PreTrainedModel, tokens: Tensor) -> DynamicCache:
    """Return the frozen model's keys and values of `tokens`."""
    from transformers import DynamicCache

    cache = DynamicCache()  # one of the model's own making would drop what a sliding window has left behind
    model.requires_grad_(False)  # torch takes other kernels for trainable weights, whatever the grad mode
    was_training = model.training
    model.eval()
    try:
        with _one_thread():
            model(input_ids=tokens, past_key_values=cache, use_cache=True)
    finally:
        model.train(was_training)
    return cache


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over many threads round otherwise than over few, and a replay may have fewer than the run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_room(model: PreTrainedModel, num_virtual_tokens: int) -> None:
    if not model.can_generate():
        raise IncompatibleError(
            f"Virtual tokens need a causal language model; {type(model).__name__} is none. Use full or lora."
        )
    check_positions(model.config, num_virtual_tokens)


def check_positions(config: PreTrainedConfig, num_virtual_tokens: int) -> None:
    """Refuse virtual tokens that leave no positions for a text of two tokens.

    Raises:
        IncompatibleError: naming the option and the positions.
    """
    num_positions = getattr(config, "max_position_embeddings", None)
    if num_positions is not None and num_virtual_tokens > num_positions - 2:
        raise IncompatibleError(
            f"--tuning.num_virtual_tokens {num_virtual_tokens} leaves no room for text: the model has {num_positions} "
            "positions."
        )


def _at_least(name: str, value: int, least: int) -> None:
    if not value >= least:
        raise UsageError(f"--tuning.{name} must be at least {least}, got {value}.")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"--tuning.{name} must be one of {', '.join(known)}, got {value!r}.")
