"""Extreme eigenvalues of a symmetric map by Lanczos's method, estimated from its products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.constants import Estimated
from hypergrad.guards import refuse_not_finite
from hypergrad.linear.operator import LinearMap
from hypergrad.linear.vectors import dot, norm


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """Each task's extreme Ritz values, at one phi.

    ``smallest`` is never below the least eigenvalue and ``largest`` never above the largest, up to
    rounding: mu is estimated from above and L from below. An eigenvalue lies within the error of
    each Ritz value (Parlett 1998, Theorem 4.5.1), but nothing proves that it is the extreme one.
    So these are estimates, and they don't speak of any other phi. ``smallest <= 0`` does prove that
    the Hessian there is not positive definite.

    Attributes:
        smallest: ``(*batch,)`` estimate of the least eigenvalue: mu.
        largest: ``(*batch,)`` estimate of the largest eigenvalue: L.
        smallest_error: ``(*batch,)`` ``|H y - smallest y|`` for its unit Ritz vector y, recomputed.
        largest_error: ``(*batch,)`` the same for ``largest``.
    """

    smallest: Estimated
    largest: Estimated
    smallest_error: Float[Tensor, "*batch"]
    largest_error: Float[Tensor, "*batch"]


@torch.no_grad()
def lanczos(apply: LinearMap, start: Float[Tensor, "*batch n"], *, steps: int) -> Spectrum:
    """The extreme eigenvalues of any symmetric map, from any start that is nowhere zero.

    Lanczos's method with full reorthogonalisation (Parlett 1998, section 13.8): ``steps + 2``
    products and memory for ``steps`` vectors.

    Raises:
        NotFiniteError: a product is NaN or infinite.
    """
    basis, projected = _krylov(apply, start, min(steps, start.shape[-1]))
    vectors = torch.linalg.eigh(projected).eigenvectors
    found: list[Tensor] = []
    for column in (0, -1):
        ritz = (basis @ vectors[..., column, None])[..., 0]
        ritz = ritz / norm(ritz)[..., None]
        image = apply(ritz)
        value = dot(ritz, image)
        found += [value, norm(image - value[..., None] * ritz)]
    return Spectrum(
        smallest=Estimated(found[0]),
        smallest_error=found[1],
        largest=Estimated(found[2]),
        largest_error=found[3],
    )


def _krylov(apply: LinearMap, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis, ``(*batch, n, steps)``, and the map's projection onto it.

    Where a task's Krylov space ends early (the start saw few eigenvectors), the next direction is
    a new one, orthogonal to the rest; the projection has a zero beside its diagonal there.
    """
    eps = torch.finfo(start.dtype).eps
    direction = start / norm(start)[..., None]
    columns, diagonal, beside = [direction], [], []
    largest = torch.zeros_like(start[..., 0])
    for index in range(steps):
        image = apply(columns[-1])
        refuse_not_finite(image, "a Hessian product H v", per_task=False)
        diagonal.append(dot(columns[-1], image))
        if index == steps - 1:
            break
        largest = torch.maximum(largest, norm(image))
        basis = torch.stack(columns, dim=-1)
        image = _orthogonal(image, basis)
        length = norm(image)
        # below this, what is left of the image is the rounding of the product
        ended = length <= start.shape[-1] * eps * largest
        if bool(ended.any()):
            # a unit vector: that which the basis covers least has (n - k)/n of its square outside
            covered = basis.square().sum(-1)
            unit = torch.zeros_like(image).scatter(-1, covered.argmin(-1, keepdim=True), 1.0)
            image = torch.where(ended[..., None], _orthogonal(unit, basis), image)
        beside.append(torch.where(ended, 0.0, length))
        columns.append(image / norm(image)[..., None])
    projected = torch.diag_embed(torch.stack(diagonal, dim=-1))
    if beside:
        off = torch.diag_embed(torch.stack(beside, dim=-1), offset=1)
        projected = projected + off + off.mT
    return torch.stack(columns, dim=-1), projected


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """Part orthogonal to the basis, by projecting twice: enough for round-off (Parlett 6.9)."""
    for _ in range(2):
        vector = vector - (basis @ (basis.mT @ vector[..., None]))[..., 0]
    return vector
