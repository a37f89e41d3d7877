"""Every promise is tested for every registered method; a method's own exceptions are data on its class."""

from collections.abc import Iterator

import pytest
import torch

from foretune.methods import METHODS, AbstractMethod
from toys import TOYS, Toys


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of a dozen numbers: a second thread would only be waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(METHODS))
def recipe(request: pytest.FixtureRequest) -> type[AbstractMethod]:
    """A method; skips the promises it says it cannot keep."""
    method = METHODS.get(request.param)
    reason = method.exceptions.get(request.node.originalname.removeprefix("test_"))
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return method


@pytest.fixture
def toys(recipe: type[AbstractMethod]) -> Toys:
    """Models for the first tuning scheme the method is defined for."""
    return TOYS[recipe.schemes[0]]
