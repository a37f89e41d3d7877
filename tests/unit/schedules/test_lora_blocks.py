"""The factors of LoRA as blocks: whose turn it is, and which models are refused."""

import pytest
from torch import nn

import model_zoo
from foretune import Optimizer
from foretune.errors import IncompatibleError, UsageError
from foretune.estimators import TwoSided
from foretune.parameters import collect_trainables
from foretune.schedules import LoRABlocks
from foretune.types import Member, Trainable
from toys import Net, trainables_of


def moving(schedule: LoRABlocks, step: int, trainables: tuple[Trainable, ...]) -> list[Member]:
    (block,) = schedule.blocks(step, trainables, seed=0)
    return list(block.members)


def build(model: nn.Module) -> Optimizer:
    return Optimizer(model, estimator=TwoSided(), schedule=LoRABlocks(), lr=0.1)


def test_accept_exactly_200_updates_of_b_then_20_of_a_in_a_cycle() -> None:
    trainables = collect_trainables(model_zoo.with_adapter(model_zoo.opt, "lora"))
    schedule = LoRABlocks()
    sides = []
    for step in range(2 * 220):
        names = [member.trainable.name for member in moving(schedule, step, trainables)]
        assert len(names) == 4  # every one of two layers, q_proj and v_proj
        sides.append({"A" if ".lora_A." in name else "B" for name in names})
    assert sides == 2 * (200 * [{"B"}] + 20 * [{"A"}])


def test_each_block_has_its_own_scale_and_learning_rate() -> None:
    trainables = trainables_of(**{"x_lora_A": (2,), "lora_A": (2,), "lora_B": (2,)})[:2]
    schedule = LoRABlocks(steps_a=1, steps_b=1, std_a=0.3, std_b=0.7, lr_scale_a=2.0, lr_scale_b=3.0)
    for step, factors in ((0, (0.7, 3.0)), (1, (0.3, 2.0))):
        (member,) = moving(schedule, step, trainables)
        assert (member.std, member.lr) == factors


def test_jointly_both_blocks_are_one() -> None:
    trainables = trainables_of(lora_A=(2,), lora_B=(2,))
    schedule = LoRABlocks(joint=True, std_a=0.3, lr_scale_b=3.0)
    for step in (0, 201):
        members = moving(schedule, step, trainables)
        assert [(member.trainable.name, member.std, member.lr) for member in members] == [
            ("lora_A", 0.3, 1.0),
            ("lora_B", 1.0, 3.0),
        ]


def test_models_without_lora_and_other_tensors_are_refused_by_name() -> None:
    with pytest.raises(IncompatibleError, match=r"LoRABlocks needs LoRA.*no trainable lora_A tensor.*--tuning lora"):
        build(Net())
    model = model_zoo.with_adapter(model_zoo.opt, "lora")
    build(model)
    norm = model.base_model.model.model.decoder.final_layer_norm
    norm.weight.requires_grad_(True)
    with pytest.raises(IncompatibleError, match=r"'base_model\.model\.model\.decoder\.final_layer_norm\.weight' is tr"):
        build(model)
    norm.weight.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.requires_grad_(False)
    with pytest.raises(IncompatibleError, match="no trainable lora_B tensor"):
        build(model)
    with pytest.raises(IncompatibleError, match="no trainable lora_A tensor"):
        build(model_zoo.with_adapter(model_zoo.opt, "prefix"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_a": 0}, "steps_a must be at least 1, got 0"),
        ({"std_b": 0.0}, "std_b must be positive and finite, got 0.0"),
        ({"lr_scale_a": float("inf")}, "lr_scale_a must be positive and finite, got inf"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LoRABlocks(**options)
