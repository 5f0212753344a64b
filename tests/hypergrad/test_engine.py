"""The engine gives what torch's public functions give, and refuses what it would bend to fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hypergrad.engine import filled, pulled, vectorised
from hypergrad.errors import InputError


@pytest.fixture
def curved() -> tuple[Tensor, list[Tensor]]:
    """A vector, and points of which the last plays no part."""
    points = [torch.linspace(1, 2, 3), torch.ones(3), torch.ones(2)]
    for point in points:
        point.requires_grad_()
    return points[0] ** 3 * points[1], points


def test_a_product_is_that_of_the_public_function(curved: tuple[Tensor, list[Tensor]]) -> None:
    output, points = curved
    vector = torch.tensor([1.0, -2.0, 3.0])
    expected = torch.autograd.grad(
        output, points, vector, create_graph=True, allow_unused=True, materialize_grads=True
    )
    parts = pulled(output, points, vector, record=True)
    assert parts[2] is None
    for part, other in zip(filled(parts, points), expected, strict=True):
        assert torch.equal(part, other)
        assert part.requires_grad == (other.grad_fn is not None)
    assert not any(part.requires_grad for part in filled(pulled(output, points, vector), points))


def test_a_vector_of_another_shape_is_refused(curved: tuple[Tensor, list[Tensor]]) -> None:
    """The engine sums one with more dimensions, and so answers another question."""
    output, points = curved
    with pytest.raises(InputError, match=r"shape \(2, 3\); it takes one of shape \(3,\)"):
        pulled(output, points, torch.ones(2, 3))


def test_a_graph_that_is_not_kept_serves_once(curved: tuple[Tensor, list[Tensor]]) -> None:
    output, points = curved
    pulled(output, points, torch.ones(3), keep=False)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        pulled(output, points, torch.ones(3))


def test_a_point_without_a_part_raises_where_none_may_be(
    curved: tuple[Tensor, list[Tensor]],
) -> None:
    output, points = curved
    with pytest.raises(RuntimeError, match="not have been used"):
        pulled(output, points, torch.ones(3), unused=False)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_columns_are_those_of_vmap(batch: tuple[int, ...]) -> None:
    matrix = torch.arange(9.0).reshape(3, 3) * torch.ones(*batch, 1, 1)
    vectors = torch.randn(5, *batch, 3, generator=torch.Generator().manual_seed(0))

    def product(vector: Tensor) -> Tensor:
        return (matrix @ vector[..., None])[..., 0].cumsum(-1)

    columns = vectorised(product, vectors)
    assert torch.equal(columns, torch.vmap(product, out_dims=-1)(vectors))
    assert columns.shape == (*batch, 3, 5)


def test_what_cannot_be_vectorised_leaves_no_level_behind() -> None:
    with pytest.raises(RuntimeError, match="vmap"):
        vectorised(lambda vector: vector * float(vector.sum()), torch.ones(2, 3))
    assert torch._C._functorch.peek_interpreter_stack() is None
