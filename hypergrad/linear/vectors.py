"""Inner products, norms and scales of one vector per task."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.guards import may_look


def dot(
    left: Float[Tensor, "*batch n"], right: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """Each task's inner product."""
    product: Tensor = left.dot(right) if left.ndim == 1 else torch.linalg.vecdot(left, right)
    return product


def norm(vector: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Each task's Euclidean norm; the squares neither underflow nor overflow."""
    if may_look(vector):
        plain: Tensor = torch.linalg.vector_norm(vector, dim=-1)
        if _squares_fit(plain):
            return plain
    scale = scale_of(vector)
    length: Tensor = torch.linalg.vector_norm(vector / scale, dim=-1)
    return length * scale[..., 0]


def _squares_fit(length: Float[Tensor, "*batch"]) -> bool:
    """True if no task's sum of squares came near underflow or overflow."""
    if length.ndim == 0:
        low = high = length.item()
    elif length.numel():
        low, high = (end.item() for end in length.aminmax())
    else:
        return False
    kind = torch.finfo(length.dtype)
    # n squares below tiny are lost at most, which is n roundings of a sum above tiny / eps
    return low > (kind.tiny / kind.eps) ** 0.5 and high < torch.inf


def relative(
    residual: Float[Tensor, "*batch n"], rhs: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """Each task's ``|residual| / |rhs|``; absolute where that is 0."""
    length, size = norm(residual), norm(rhs)
    if not size.ndim and may_look(size):
        return length / size if size.item() else length
    return length / (size + (size == 0))


def ratio(above: Float[Tensor, "*#each"], below: Float[Tensor, "*#each"]) -> Float[Tensor, "..."]:
    """The quotient; 0 for 0/0, and infinite, with its sign, for more than nothing over nothing."""
    if not above.ndim and may_look(above) and above.item():
        return above / below
    return torch.where(above == 0, above, above / below)


def scale_of(rhs: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch 1"]:
    """A power of two near each task's largest entry (1 for a zero right-hand side).

    Solving for ``b / scale`` and multiplying back is exact, and keeps inner products of tiny or
    huge right-hand sides away from underflow and overflow.
    """
    largest = (
        rhs.abs().amax(dim=-1, keepdim=True) if rhs.shape[-1] else rhs.new_zeros(*rhs.shape[:-1], 1)
    )
    # one less than frexp's exponent, so that the largest finite number has a finite scale
    if rhs.ndim == 1 and may_look(largest):
        size = largest.item()
        return torch.full_like(largest, 2.0 ** (math.frexp(size)[1] - 1) if size > 0 else 1.0)
    _, exponent = torch.frexp(largest)
    return torch.where(largest > 0, torch.exp2((exponent - 1).to(rhs.dtype)), 1.0)
