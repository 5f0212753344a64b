"""Approximate inverses, built from products with the matrix at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.linear.vectors import scale_of

__all__ = ["ApproximateInverse", "Jacobi", "Nystrom", "Preconditioner"]


@runtime_checkable
class Preconditioner(Protocol):
    """Builds an approximate inverse of a matrix, given products with it."""

    def prepare(self, apply: LinearMap, shaped_as: Float[Tensor, "*batch n"]) -> LinearMap:
        """A product with a symmetric positive definite approximation of the inverse of A.

        Whatever A is: if it is not positive definite, or its products are not finite, that is for
        the solver to find out.

        Args:
            apply: the product with A; those taken here count in the solution's ``matvecs``.
            shaped_as: a tensor with the vectors' shape, dtype and device.
        """
        ...


def prepared(
    preconditioner: Preconditioner | LinearMap | None,
    product: Operator,
    rhs: Float[Tensor, "*batch n"],
) -> LinearMap | None:
    """The product with the approximate inverse, if there is one."""
    if preconditioner is None or not isinstance(preconditioner, Preconditioner):
        return preconditioner
    # of no matrix, or of one without entries, there is nothing to estimate
    return preconditioner.prepare(product, rhs) if rhs.numel() else None


def scaled(
    inverse: LinearMap, vector: Float[Tensor, "*batch n"]
) -> tuple[LinearMap, Float[Tensor, "*batch n"]]:
    """The approximate inverse times a power of two for each task, and its image of ``vector``.

    Such a factor changes no step of CG. Where the image is u times as long as the vector, it
    becomes ``sqrt(u)`` times as long: A being about 1/u, CG's inner products ``p'p``, ``p'A p`` and
    ``r'z`` are then at most ``max(u, 1/u)`` from one another, the middle one of ordinary size, and
    neither overflow nor underflow.
    """
    image = inverse(vector)
    unit = scale_of(image) / scale_of(vector)
    unit = unit / scale_of(unit.sqrt())
    return lambda other: inverse(other) / unit, image / unit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Jacobi:
    """The inverse of the diagonal: given, known by the objective in closed form, or estimated.

    The estimate is the mean of ``z * A z`` over random signs z (Bekas, Kokiopoulou and Saad 2007),
    exact for a diagonal A. An entry that is estimated at less than its own standard error is not
    known, and is taken at the standard error. Absolute values keep the result positive definite.

    Attributes:
        diagonal: the exact diagonal, positive, if the caller knows it.
        probes: products for the estimate, at least 2; none are taken where the diagonal is known.
        seed: seed of the estimate's own generator.
    """

    diagonal: Tensor | None = None
    probes: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.probes < 2:
            raise InputError(f"Jacobi got probes={self.probes}; an error bar needs at least 2.")
        if self.diagonal is not None and not bool((self.diagonal > 0).all()):
            raise InputError(
                "Jacobi got a diagonal that is not positive, which no positive definite matrix has."
            )

    def prepare(self, apply: LinearMap, shaped_as: Float[Tensor, "*batch n"]) -> LinearMap:
        """See :class:`Preconditioner`.

        Raises:
            InputError: the given diagonal does not fit the vectors.
        """
        diagonal = self.diagonal
        if diagonal is None and isinstance(apply, Operator):
            diagonal = apply.diagonal()
        if diagonal is None:
            diagonal = self._estimate(apply, shaped_as)
        n = shaped_as.shape[-1]
        if diagonal.shape[-1:] != (n,) or diagonal.shape not in ((n,), shaped_as.shape):
            raise InputError(
                f"Jacobi got a diagonal of shape {tuple(diagonal.shape)} for vectors of shape "
                f"{tuple(shaped_as.shape)}; give ({n},) or the vectors' shape."
            )
        inverse = 1 / torch.where((diagonal.abs() > 0) & diagonal.isfinite(), diagonal.abs(), 1.0)
        return lambda vector: inverse * vector

    def _estimate(self, apply: LinearMap, shaped_as: Tensor) -> Tensor:
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        samples = []
        for _ in range(self.probes):
            signs = torch.randint(0, 2, shaped_as.shape[-1:], generator=generator, device="cpu")
            z = (2 * signs - 1).to(shaped_as).expand_as(shaped_as).contiguous()
            samples.append(z * apply(z))
        stack = torch.stack(samples)
        scale = scale_of(stack.abs().amax(dim=0))  # the squares neither overflow nor underflow
        error = (stack / scale).std(dim=0) * scale / self.probes**0.5
        return torch.maximum(stack.mean(dim=0).abs(), error)


@dataclass(frozen=True, slots=True, eq=False)
class ApproximateInverse:
    """A given matrix in the place of the inverse of ``A = dF/dphi``, such as an earlier A's.

    Backward's system is that of A', and takes the matrix's transpose; second derivatives and
    forward mode need A's own. For :class:`GMRES` and :class:`BiCGStab`, which need it neither
    symmetric nor definite; a bad one costs steps, never the answer.

    Attributes:
        matrix: ``(n, n)`` for all tasks or ``(*batch, n, n)``, about ``A^-1``.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        if self.matrix.ndim < 2 or self.matrix.shape[-1] != self.matrix.shape[-2]:
            raise InputError(
                f"ApproximateInverse got a matrix of shape {tuple(self.matrix.shape)}; give (n, n) "
                "for all tasks, or (*batch, n, n)."
            )

    def prepare(self, apply: LinearMap, shaped_as: Float[Tensor, "*batch n"]) -> LinearMap:
        """See :class:`Preconditioner`.

        Raises:
            InputError: the matrix does not fit the vectors.
        """
        n, batch = shaped_as.shape[-1], shaped_as.shape[:-1]
        if self.matrix.shape not in ((n, n), (*batch, n, n)):
            raise InputError(
                f"ApproximateInverse has a matrix of shape {tuple(self.matrix.shape)} for vectors "
                f"of shape {tuple(shaped_as.shape)}; give ({n}, {n}) or {(*batch, n, n)}."
            )
        turned = isinstance(apply, Operator) and apply.transposed
        matrix = (self.matrix.mT if turned else self.matrix).detach().to(shaped_as)
        return lambda vector: (matrix @ vector[..., None])[..., 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nystrom:
    """The inverse of a randomised low-rank approximation plus a multiple of the identity.

    For ``A = B + shift I``, B positive semidefinite with a few large eigenvalues: ``U diag(s) U'``
    approximates B from ``rank`` products, and
    ``P^{-1} = I + U diag((s_r + shift) / (s + shift) - 1) U'`` maps the large eigenvalues of A to
    about ``s_r + shift`` (Frangella, Tropp and Udell 2023, Algorithm 2.1 and equation 5.3, arXiv
    2110.02820). Where rank is about twice B's effective dimension at ``shift``, the expected
    condition number is below 28 (their Theorem 5.1). A spectrum that decays slowly gains nothing.
    Tasks share the random matrix.

    Where the sketch of a task is not positive definite, or not finite, its ``P^{-1}`` is I.

    Attributes:
        rank: products, and vectors of memory for each task; above n it means n.
        shift: the multiple of the identity that A is known to contain: an L2 penalty, CG's damping.
        seed: seed of the preconditioner's own generator.
    """

    rank: int
    shift: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.shift < float("inf"):
            raise InputError(
                f"Nystrom got rank={self.rank}, shift={self.shift}; it needs rank >= 1, shift >= 0."
            )

    def prepare(self, apply: LinearMap, shaped_as: Float[Tensor, "*batch n"]) -> LinearMap:
        """See :class:`Preconditioner`."""
        n, dtype = shaped_as.shape[-1], shaped_as.dtype
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        shape = (n, min(self.rank, n))
        gaussian = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        test = torch.linalg.qr(gaussian)[0].to(shaped_as)
        columns = [
            apply(test[:, j].expand_as(shaped_as).contiguous()) for j in range(test.shape[1])
        ]
        sketch = torch.stack(columns, dim=-1) - self.shift * test
        finite = sketch.isfinite().all(dim=-1).all(dim=-1)
        sketch = torch.where(finite[..., None, None], sketch, test)
        # P^{-1} is the same for c A and c shift: in units of the sketch's largest entry the squares
        # and products below neither overflow nor underflow.
        unit = scale_of(sketch.flatten(start_dim=-2))  # (*batch, 1)
        sketch, shift = sketch / unit[..., None], self.shift / unit
        # The sketch of B + nu I, for rounding may have made B's indefinite; nu is taken off again.
        # Rounding in a product with A, of which B is a part, is what nu has to exceed.
        spread = torch.linalg.matrix_norm(sketch) + shift[..., 0] * test.shape[1] ** 0.5
        nu = (n**0.5 * torch.finfo(dtype).eps * spread)[..., None]
        sketch = sketch + nu[..., None] * test
        core = test.mT @ sketch
        factor, info = torch.linalg.cholesky_ex((core + core.mT) / 2)
        fine = finite & (info == 0)
        eye = torch.eye(test.shape[1], dtype=core.dtype, device=core.device)
        factor = torch.where(fine[..., None, None], factor, eye)
        half = torch.linalg.solve_triangular(factor.mT, sketch, upper=True, left=False)
        basis, root, _ = torch.linalg.svd(half, full_matrices=False)
        values = (root.square() - nu).clamp(min=0) + shift
        # I + U (w - 1) U' loses to cancellation all but the w / eps-th part: keep half the digits
        values = values.maximum(torch.finfo(dtype).eps ** 0.5 * values[..., :1])
        known = fine[..., None] & (values > 0)
        weight = torch.where(known, values[..., -1:] / torch.where(known, values, 1.0) - 1, 0.0)

        def inverse(vector: Tensor) -> Tensor:
            inside = weight[..., None] * (basis.mT @ vector[..., None])
            image: Tensor = vector + (basis @ inside)[..., 0]
            return image

        return inverse
