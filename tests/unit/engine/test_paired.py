"""The engine that evaluates several perturbations in one forward: the losses of layerwise, for less work."""

from __future__ import annotations

import copy
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import masked_models
from engine_runs import MINUS, PLUS, SEVERAL, Shift, bits, interrupted_by_a_timer, num_hooks
from foretune.engine import choose_engine, sharing
from foretune.engine.layerwise import Layerwise
from foretune.engine.paired import Paired
from foretune.errors import IncompatibleError
from foretune.estimators import ForwardMode, TwoSided
from foretune.journal import Journal
from foretune.journal.replay import replay
from foretune.objectives import ClassificationObjective, EncodedExample, LMObjective, find_masked_head
from foretune.objectives.masked import MaskedObjective
from foretune.objectives.masked_encoding import EncodedMaskedExample
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.spaces import LowRank
from model_zoo import (
    HIDDEN,
    VOCABULARY,
    ZOO,
    Entry,
    causal_closure,
    gpt2,
    llama,
    opt,
    with_adapter,
)

SHIFTS = [None, Shift(PLUS), Shift(MINUS), Shift(SEVERAL), Shift(PLUS)]
TOKENS = torch.tensor([[4, 9, 4, 39], [0, 9, 9, 21], [7, 7, 30, 2]])


class Layers(nn.Module):
    """A small network on tokens; keeps rows apart, and returns a value a row."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.words = nn.Embedding(VOCABULARY, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.frozen = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, 5)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        self.frozen.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.frozen(self.norm(self.words(tokens)).mean(dim=1))))


def choose(model: nn.Module, closure: Callable[[], Tensor | float]) -> Paired:
    engine = choose_engine("paired", model, collect_trainables(model), closure)
    assert isinstance(engine, Paired)
    return engine


def losses(engine: Layerwise, closure: Callable[[], Tensor | float], shifts=SHIFTS) -> list[float]:
    with engine.session():
        return engine.losses(closure, shifts)


def plain_losses(model: nn.Module, closure: Callable[[], Tensor | float], shifts=SHIFTS) -> list[float]:
    return losses(Layerwise(model, collect_trainables(model)), closure, shifts)


def names_of(model: nn.Module, modules: tuple[nn.Module, ...]) -> list[str]:
    return [name for name, module in model.named_modules() if module in modules]


def square(model: nn.Module, tokens: Tensor = TOKENS) -> Callable[[], Tensor]:
    return lambda: model(tokens).square().mean()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How the modules of shared forwards were run, and how many of these there were."""
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        method = getattr(Paired, name)

        def counting(self: Paired, *args: object) -> object:
            result = method(self, *args)
            counts[name.removeprefix("_")] += name == "_make" or result is not None
            return result

        monkeypatch.setattr(Paired, name, counting)

    for name in ("_make", "_run_factored", "_run_apart"):
        count(name)
    return counts


# ---------------------------------------------------------------- equal losses

PAIRED = [
    *("opt", "llama", "qwen2", "mistral", "gpt2", "mixtral", "qwen2_moe", "roberta"),
    *("opt_lora", "opt_prefix", "llama_lora", "llama_prefix"),
]


@pytest.mark.parametrize("entry", [entry for entry in ZOO if entry.name in PAIRED], ids=lambda entry: entry.name)
def test_losses_are_those_of_the_default_engine(entry: Entry) -> None:
    model = entry.build()
    closure, before, modes = entry.closure_of(model), bits(model), [module.training for module in model.modules()]
    engine = choose(model, closure)
    assert engine.roots == (model,)
    assert losses(engine, closure) == pytest.approx(plain_losses(model, closure), rel=1e-6)
    assert bits(model) == before
    assert num_hooks(model) == num_hooks(entry.build())
    assert [module.training for module in model.modules()] == modes
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)], ids=str
)
def test_losses_in_other_dtypes(dtype: torch.dtype, tolerance: float) -> None:
    model = opt().to(dtype)
    closure = causal_closure(model)
    assert losses(choose(model, closure), closure) == pytest.approx(plain_losses(model, closure), rel=tolerance)


def test_losses_under_autocast_do_not_come_from_casts_of_other_values() -> None:
    model = opt()
    inner = causal_closure(model)

    def closure() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return inner()

    shifts = [None, Shift(((101, 0.3),)), Shift(((101, -0.3),))]
    found, wanted = losses(choose(model, closure), closure, shifts), plain_losses(model, closure, shifts)
    assert found == pytest.approx(wanted, rel=5e-3)
    assert min(abs(a - b) for a, b in pairwise(wanted)) > 2e-2 * wanted[0]


def test_some_tensors_move_and_others_do_not() -> None:
    model = opt()
    closure, names = causal_closure(model), [trainable.name for trainable in collect_trainables(model)]
    shifts = [Shift(PLUS, only=names[::2]), Shift(SEVERAL, only=names[1::2]), Shift(MINUS, only=())]
    assert losses(choose(model, closure), closure, shifts) == pytest.approx(
        plain_losses(model, closure, shifts), rel=1e-6
    )


def test_both_signs_are_written_at_once() -> None:
    model, shifts = Layers(), [Shift(PLUS), Shift(MINUS)]
    losses(choose(model, square(model)), square(model), shifts)
    rows = TOKENS.unique().tolist()
    assert shifts[0].written[0] == ("words.weight", rows)
    assert sorted(name for name, _ in shifts[0].written) == [
        *("head.bias", "head.weight", "norm.bias", "norm.weight", "words.weight")
    ]
    assert shifts[1].written == []


def test_thin_shifts_are_added_to_activations(counted: Counter[str]) -> None:
    """Linear layers write no weight; embeddings and norms do."""
    records = []
    for engine in ("layerwise", "paired"):
        model = llama().double()
        optimizer = Optimizer(
            model, space=LowRank(rank=2), estimator=TwoSided(num_directions=2), lr=1e-3, engine=engine
        )
        for _ in range(3):
            optimizer.step(causal_closure(model))
        records.append(optimizer.last_record)
    assert records[1].scalars == pytest.approx(records[0].scalars, rel=1e-7)
    num_linear = sum(type(module) is nn.Linear for module in model.modules())
    assert counted["run_factored"] == 3 * num_linear


# ---------------------------------------------------------------- less work


def test_frozen_layers_run_once_for_both_signs() -> None:
    model = with_adapter(opt, "lora")
    closure = causal_closure(model)
    engine = choose(model, closure)
    frozen = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and not any(p.requires_grad for p in module.parameters())
    ]

    def numbers_of_calls(of: Layerwise) -> set[int]:
        calls: Counter[nn.Module] = Counter()
        handles = [module.register_forward_hook(lambda module, *_: calls.update([module])) for module in frozen]
        losses(of, closure, [Shift(PLUS), Shift(MINUS)])
        for handle in handles:
            handle.remove()
        return {calls[module] for module in frozen}

    assert len(frozen) > 10
    assert numbers_of_calls(Layerwise(model, collect_trainables(model))) == {2}
    assert numbers_of_calls(engine) == {1}


@pytest.mark.parametrize(("most", "num_rows"), [(10_000, [15]), (36, [9, 6]), (24, [6, 3, 6]), (1, [6, 3, 6])])
def test_more_than_two_share_while_the_batch_is_small(
    most: int, num_rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 rows of 4 tokens each; both signs of a direction do not part."""
    model, rows = Layers(), []
    engine = choose(model, square(model))
    monkeypatch.setattr(sharing, "MAX_POSITIONS", most)
    shifts = [Shift(SEVERAL), Shift(PLUS), Shift(PLUS), Shift(PLUS), Shift(MINUS)]
    model.frozen.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    found = losses(engine, square(model), shifts)
    assert found == pytest.approx(plain_losses(model, square(model), shifts), rel=1e-6)
    assert rows[: len(num_rows)] == num_rows  # then those of the default engine


# ---------------------------------------------------------------- whatever the closure does


def test_micro_batches() -> None:
    model = Layers()
    parts = [TOKENS[:2], TOKENS[2:], TOKENS[:2]]

    def closure() -> Tensor:
        return sum((square(model, part)() for part in parts), start=torch.zeros(()))

    closure.num_micro_batches = 3
    engine, calls = choose(model, closure), []
    model.frozen.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    sides = [Shift(PLUS), Shift(MINUS)]
    found = losses(engine, closure, sides)
    assert calls == [4, 2, 4]
    assert found == pytest.approx(plain_losses(model, closure, sides), rel=1e-6)


def alternating(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Closures whose calls are not alike."""

    def by_state() -> Callable[[], Tensor]:
        count = []

        def closure() -> Tensor:
            count.append(1)
            return square(model, TOKENS if len(count) % 2 else TOKENS.flip(1, 0))()

        return closure

    def more_and_more() -> Callable[[], Tensor]:
        count = []

        def closure() -> Tensor:
            count.append(1)
            return sum(
                (square(model, (TOKENS + k) % VOCABULARY)() for k in range(1 - len(count) % 2, 2)),
                start=torch.zeros(()),
            )

        return closure

    def in_place() -> Callable[[], Tensor]:
        tokens = TOKENS.clone()

        def closure() -> Tensor:
            loss = square(model, tokens)()
            tokens.copy_(tokens.flip(0, 1))
            return loss

        return closure

    def by_result() -> Callable[[], Tensor]:
        def closure() -> Tensor:
            first = model(TOKENS)
            return square(model, TOKENS if first.sum() > 0 else first.argmax(dim=1, keepdim=True))()

        return closure

    return iter((by_state, more_and_more, in_place, by_result))


@pytest.mark.parametrize("number", range(4))
def test_calls_that_differ_between_evaluations_are_made(number: int) -> None:
    model = Layers()
    make = list(alternating(model))[number]
    engine = choose(model, square(model))
    shifts = [None, Shift(PLUS), Shift(MINUS), Shift(SEVERAL)]
    found, wanted = losses(engine, make(), shifts), plain_losses(model, make(), shifts)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_equal_arguments_need_not_be_the_same_objects(counted: Counter[str]) -> None:
    model = Layers()
    engine, calls = choose(model, square(model)), []
    counted.clear()
    model.frozen.register_forward_hook(lambda *args: calls.append(1))
    losses(engine, lambda: model(TOKENS.clone()).square().mean(), [Shift(PLUS), Shift(MINUS)])
    assert len(calls) == counted["make"] == 1


def test_a_closure_may_change_what_it_was_given() -> None:
    model = Layers()
    engine = choose(model, square(model))

    def closure() -> Tensor:
        return model(TOKENS).mul_(2).relu_().sum()

    assert losses(engine, closure) == pytest.approx(plain_losses(model, closure), rel=1e-6)


def test_a_cache_is_not_handed_on() -> None:
    model = gpt2()

    def with_cache(use: bool) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            output = model(input_ids=TOKENS, use_cache=True)
            length = output.past_key_values.get_seq_length() if use else 1
            return output.logits.logsumexp(dim=-1).mean() * length

        return closure

    engine = choose(model, with_cache(False))
    assert losses(engine, with_cache(False)) == pytest.approx(plain_losses(model, with_cache(False)), rel=1e-6)
    with pytest.raises(IncompatibleError, match="'get_seq_length' of a DynamicCache"):
        losses(engine, with_cache(True))


def test_position_ids_that_all_rows_share() -> None:
    model = gpt2()
    places = torch.arange(4).view(1, -1)

    def closure() -> Tensor:
        return model(input_ids=TOKENS, position_ids=places, use_cache=False).logits.logsumexp(dim=-1).mean()

    engine = choose(model, closure)
    assert engine.roots == (model,)
    assert losses(engine, closure) == pytest.approx(plain_losses(model, closure), rel=1e-6)


class WithTable(nn.Module):
    """Adds values of a table, which do not depend on the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()
        self.places = nn.Embedding(8, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)[:, None] + self.places(torch.arange(5))


def test_what_cannot_be_cut_into_rows_is_left_out() -> None:
    model = WithTable()
    engine = choose(model, square(model))
    assert engine.roots == (model.layers,)
    assert losses(engine, square(model)) == pytest.approx(plain_losses(model, square(model)), rel=1e-6)


# ---------------------------------------------------------------- our objectives

PROMPTS = [(2, 5, 6, 7, 8), (2, 9, 10), (2, 11, 12, 13)]


def rows_with(options: list[tuple[int, ...]]) -> list[EncodedExample]:
    lengths = tuple(map(len, options))
    return [
        EncodedExample(tuple((*prompt, *option) for option in options), lengths, (index % len(options),), "row")
        for index, prompt in enumerate(PROMPTS)
    ]


@dataclass
class Case:
    """A model, an objective on it and the names of the roots."""

    build: Callable[[], nn.Module]
    objective: Callable[[nn.Module], ClassificationObjective | LMObjective]
    options: list[tuple[int, ...]]
    body: str


OBJECTIVES = {
    "tied head": Case(opt, ClassificationObjective.for_model, [(20,), (21,)], "model"),
    "candidates of the whole vocabulary": Case(llama, ClassificationObjective.for_model, [(20,), (21,)], ""),
    "packed options": Case(llama, ClassificationObjective.for_model, [(20, 4), (21, 5, 6)], "model"),
    "options apart": Case(opt, lambda model: ClassificationObjective(), [(20, 4), (21, 5, 6)], ""),
    "language model": Case(opt, LMObjective.for_model, [(20, 4), (21, 5, 6)], "model"),
    "lora": Case(lambda: with_adapter(llama, "lora"), LMObjective.for_model, [(20, 4)], "base_model.model.model"),
    "prefix": Case(lambda: with_adapter(opt, "prefix"), LMObjective.for_model, [(20, 4)], ""),
}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("case", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_the_forward_of_an_objective_is_shared(case: Case, counted: Counter[str]) -> None:
    model = case.build().eval()
    objective = case.objective(model)
    batch = objective.collate(rows_with(case.options))
    closure = lambda: objective.loss(model, batch)  # noqa: E731
    engine = choose(model, closure)
    assert model.get_submodule(case.body) in engine.roots, names_of(model, engine.roots)
    counted.clear()
    found = losses(engine, closure, [Shift(PLUS), Shift(MINUS)])
    assert counted["make"] >= 1
    assert found == pytest.approx(plain_losses(model, closure, [Shift(PLUS), Shift(MINUS)]), rel=1e-6)


@pytest.mark.parametrize("build", [masked_models.roberta, masked_models.bert, masked_models.distilbert])
def test_the_body_of_a_masked_model_is_shared(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    ids = [(0, 9, 11, 4, 8, 2), (0, 4, 17, 2), (0, 30, 31, 32, 4, 2)]
    rows = [EncodedMaskedExample(tokens, tokens.index(4), (20, 21), (i % 2,), "row") for i, tokens in enumerate(ids)]
    objective = MaskedObjective(find_masked_head(model))
    batch = objective.collate(rows)
    closure = lambda: objective.loss(model, batch)  # noqa: E731
    engine = choose(model, closure)
    assert model.base_model in engine.roots
    assert losses(engine, closure) == pytest.approx(plain_losses(model, closure), rel=1e-6)


# ---------------------------------------------------------------- refusals


class Mixing(nn.Module):
    """Subtracts the mean over the rows of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, tokens: Tensor) -> Tensor:
        output = self.layers(tokens)
        return output - output.mean(dim=0)


class TakesThreeRows(Layers):
    """A batch has to have three rows."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).view(3, 5)


@pytest.mark.parametrize(
    ("model", "closure_of", "reason"),
    [
        (Mixing, lambda m: lambda: functional.cross_entropy(m(TOKENS), torch.arange(3)), "rows of a batch are not"),
        (TakesThreeRows, square, "it fails on a batch of 2 times the rows"),
        (Layers, lambda m: lambda: m.frozen(m.words.weight.detach().mean(dim=0)).sum(), "'words.weight' is read"),
        (Layers, lambda m: lambda: 1.0, "calls no module on data alone"),
        (Layers, lambda m: lambda: m(TOKENS).sum() * torch.nan, "is nan, which does not show"),
        (
            lambda: with_adapter(opt, "prompt"),
            causal_closure,
            "has less than half of the weights",
        ),
    ],
    ids=["mixing", "three_rows", "elsewhere", "nothing", "nan", "prompt"],
)
def test_a_model_that_cannot_be_paired_is_refused(model, closure_of, reason, caplog) -> None:
    model = model()
    before = bits(model)
    with caplog.at_level(logging.WARNING), pytest.raises(IncompatibleError, match="Engine 'paired' cannot serve") as e:
        choose(model, closure_of(model))
    assert reason in str(e.value)
    assert bits(model) == before
    assert num_hooks(model) == 0
    assert not any("forward" in vars(module) for module in model.modules())


def test_generation_is_refused() -> None:
    model = opt()
    with pytest.raises(IncompatibleError, match="times per evaluation"):
        choose(model, lambda: float(model.generate(TOKENS, max_new_tokens=6, min_new_tokens=6).sum()))


def test_exact_slopes_are_refused() -> None:
    with pytest.raises(IncompatibleError, match="Engine 'paired' cannot serve ForwardMode"):
        Optimizer(Layers(), estimator=ForwardMode(), lr=1e-3, engine="paired")


def test_auto_never_takes_it() -> None:
    model = Layers()
    assert choose_engine("auto", model, collect_trainables(model), square(model)).name == "layerwise"


# ---------------------------------------------------------------- errors and interrupts


class Moment:
    """Raises at one call of a hook."""

    def __init__(self, error: type[BaseException], number: int) -> None:
        self.error, self.left = error, number

    def __call__(self, *args: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error("in the middle")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["words", "frozen", "head", ""])
@pytest.mark.parametrize("after", [False, True], ids=["entering", "leaving"])
def test_an_error_in_a_shared_forward_leaves_everything_as_it_was(error, place, after) -> None:
    model = Layers()
    engine, before, wanted = choose(model, square(model)), bits(model), plain_losses(model, square(model))
    module = model.get_submodule(place)
    register = module.register_forward_hook if after else module.register_forward_pre_hook
    with engine.session():
        with register(Moment(error, 1)), pytest.raises(error, match="in the middle"):
            engine.losses(square(model), SHIFTS)
        assert bits(model) == before
        assert engine.open_parameters() == []
        assert engine.losses(square(model), SHIFTS) == pytest.approx(wanted, rel=1e-6)
    assert bits(model) == before
    assert not any("forward" in vars(module) for module in model.modules())


class FailsApart(nn.Module):
    """A layer that fails for its second caller, while its tensors are open."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 5))
        self.moment = Moment(KeyboardInterrupt, 0)

    def forward(self, x: Tensor) -> Tensor:
        self.moment()
        return x @ self.weight


def test_an_error_in_a_module_that_runs_apart() -> None:
    model = nn.Sequential(Layers(), FailsApart())
    engine, before, wanted = choose(model, square(model)), bits(model), plain_losses(model, square(model))
    with engine.session():
        model[1].moment = Moment(KeyboardInterrupt, 2)
        with pytest.raises(KeyboardInterrupt):
            engine.losses(square(model), SHIFTS)
        assert bits(model) == before
        assert engine.losses(square(model), SHIFTS) == pytest.approx(wanted, rel=1e-6)


def test_ctrl_c_by_a_timer_at_random_moments() -> None:
    model = nn.Sequential(Layers(), nn.Linear(5, 5), nn.LayerNorm(5))
    engine, before, wanted = choose(model, square(model)), bits(model), plain_losses(model, square(model))

    def check() -> None:
        assert engine.losses(square(model), SHIFTS) == pytest.approx(wanted, rel=1e-6)

    for _ in interrupted_by_a_timer(engine, check, count=40, longest=3e-3):
        assert bits(model) == before
        assert num_hooks(model) == 0
        assert not any("forward" in vars(module) for module in model.modules())


def test_a_session_is_invisible_to_signatures_and_copies() -> None:
    model = opt()
    engine = choose(model, causal_closure(model))
    signature = inspect.signature(model.forward)
    with engine.session():
        assert inspect.signature(model.forward) == signature
        twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert (twin.eval()(input_ids=TOKENS).logits == 0).all()


# ---------------------------------------------------------------- runs


def test_a_run_is_journaled_and_replayed(tmp_path) -> None:
    def build(engine: str) -> Optimizer:
        return Optimizer(llama(), space=LowRank(), estimator=TwoSided(zo_eps=1e-2), lr=1e-2, engine=engine)

    trained = build("paired")
    trained.record_to(tmp_path / "journal")
    for _ in range(3):
        trained.step(causal_closure(trained.model))
    trained.journal.close()
    journal = Journal.read(tmp_path / "journal")
    assert journal.header["engine"] == "paired"
    again = build("auto")
    replay(again, journal)
    assert bits(again.model) == bits(trained.model)
