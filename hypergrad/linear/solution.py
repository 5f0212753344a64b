"""What a linear solver is, and what it answers: a solution with its evidence."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hypergrad.guards import may_look
from hypergrad.linear.operator import LinearMap as LinearMap
from hypergrad.linear.operator import Reduction, is_reducible, is_structured
from hypergrad.linear.remembering import Remembering


class Status(enum.IntEnum):
    """How a solve ended, with what to do about it in :attr:`remedy`."""

    CONVERGED = 0
    OUT_OF_STEPS = 1
    STAGNATED = 2
    INDEFINITE = 3
    NOT_FINITE = 4
    DAMPED = 5
    DENIED = 6

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return _REMEDIES[self]


_REMEDIES = {
    Status.CONVERGED: "nothing to do.",
    Status.OUT_OF_STEPS: "allow more steps, loosen the tolerance, or precondition.",
    Status.STAGNATED: (
        "the residual falls no further: the tolerance is below what this precision reaches (loosen "
        "it, or use float64), or the matrix is singular (regularise the lower objective)."
    ),
    Status.INDEFINITE: (
        "the Hessian is not positive definite, so phi is no strict minimiser; take more lower "
        "steps, or regularise the lower objective."
    ),
    Status.NOT_FINITE: "a product was NaN or infinite; look for an overflow in the objective.",
    Status.DAMPED: (
        "only the damped system was solved; damp less, or regularise the lower objective itself, "
        "which keeps phi and v consistent."
    ),
    Status.DENIED: (
        "the solver called a residual converged that its x does not have; mend the solver so that "
        "it recomputes the residual, or use one of hypergrad's."
    ),
}


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer ``x`` to ``A x = b`` for each task, with its evidence.

    Attributes:
        x: ``(*batch, n)`` the last iterate.
        status: ``(*batch,)`` values of :class:`Status`.
        residual: ``(*batch,)`` ``|b - A x| / |b|``, recomputed from ``x`` by one product, never
            the recurrence's own (which sinks to zero whatever x is); 0 where b is 0.
        curvature: ``(*batch,)`` the least ``p'Ap / p'p`` met; a value <= 0 proves that A is not
            positive definite. Infinite where no product was needed.
        steps: ``(*batch,)`` steps this task took.
        matvecs: products, each serving the whole batch.
    """

    x: Float[Tensor, "*batch n"]
    status: Int[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    curvature: Float[Tensor, "*batch"]
    steps: Int[Tensor, "*batch"]
    matvecs: int

    @property
    def converged(self) -> Bool[Tensor, "*batch"]:
        """Whether the recomputed residual met the tolerance, for each task."""
        return self.status == Status.CONVERGED


@runtime_checkable
class LinearSolver(Protocol):
    """Solves ``A x = b`` for every task of a batch, given products with A only."""

    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Return a solution with evidence; never raise for a failed solve, report it.

        A system of no unknowns is solved by the x that there is, and so is a batch of no tasks.

        Args:
            apply: the product with A.
            rhs: b, finite.
            start: where to begin; methods that have no use for one ignore it.
        """
        ...


class Counted:
    """``A + damping I``, counting the products; knows what a :class:`Structured` A knows.

    Attributes:
        matvecs: products so far.
    """

    def __init__(self, apply: LinearMap, damping: float = 0.0) -> None:
        self._apply = apply
        self._damping = damping
        self._memory = apply if isinstance(apply, Remembering) else None
        self._structured = apply if is_structured(apply) else None
        self._reducible = apply if is_reducible(apply) else None
        self.matvecs = 0

    def __call__(self, vector: Tensor) -> Tensor:
        """The product that a solver's iterations use."""
        return self._damped(self._apply(vector), vector)

    def judge(self, vector: Tensor) -> Tensor:
        """The product that a solver's answer is judged by: the map's own, if it has one."""
        by = self._apply if self._structured is None else self._structured.judge
        if self._memory is not None:
            by = self._memory.judge
        return self._damped(by(vector), vector)

    def zeros(self, rhs: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """Where a cold start begins, which no product need judge."""
        zero = torch.zeros_like(rhs)
        if self._memory is not None:
            self._memory.begin(zero)
        return zero

    def scaled(
        self, x: Float[Tensor, "*batch n"], scale: Float[Tensor, "*batch 1"]
    ) -> Float[Tensor, "*batch n"]:
        """``x * scale``, the answer to ``scale b`` if x is that to b; what judged x judges it."""
        answer = x * scale
        if self._memory is not None:
            self._memory.rescale(x, answer, scale)
        return answer

    def diagonal(self) -> Tensor | None:
        """The diagonal, if the map knows it."""
        return None if self._structured is None else self._structured.diagonal() + self._damping

    def reduced(self, vector: Float[Tensor, "*batch n"]) -> Reduction | None:
        """The map around a vector, where it knows fewer dimensions; its products count, too."""
        found = None if self._reducible is None else self._reducible.reduced(vector)
        if found is None:
            return None
        product = found.product
        return replace(found, product=lambda v: self._damped(product(v), v))

    def _damped(self, image: Tensor, vector: Tensor) -> Tensor:
        self.matvecs += 1
        return image + self._damping * vector if self._damping else image


def dot(
    left: Float[Tensor, "*batch n"], right: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """Each task's inner product."""
    product: Tensor = left.dot(right) if left.ndim == 1 else torch.linalg.vecdot(left, right)
    return product


def norm(vector: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Each task's Euclidean norm; the squares neither underflow nor overflow."""
    if may_look(vector) and vector.shape[:-1].numel():
        plain: Tensor = torch.linalg.vector_norm(vector, dim=-1)
        low, high = plain.detach().aminmax()
        kind = torch.finfo(plain.dtype)
        # n squares below tiny are lost at most, which is n roundings of a sum above tiny / eps
        if float(low) > (kind.tiny / kind.eps) ** 0.5 and float(high) < torch.inf:
            return plain
    scale = scale_of(vector)
    length: Tensor = torch.linalg.vector_norm(vector / scale, dim=-1)
    return length * scale[..., 0]


def judge(
    apply: LinearMap, x: Float[Tensor, "*batch n"], rhs: Float[Tensor, "*batch n"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch n"]]:
    """The recomputed relative residual of x, and the residual vector, by one product."""
    residual = rhs - (apply.judge(x) if isinstance(apply, Counted) else apply(x))
    return relative(residual, rhs), residual


def relative(
    residual: Float[Tensor, "*batch n"], rhs: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """Each task's ``|residual| / |rhs|``; absolute where that is 0."""
    size = norm(rhs)
    return norm(residual) / torch.where(size > 0, size, 1.0)


def scale_of(rhs: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch 1"]:
    """A power of two near each task's largest entry (1 for a zero right-hand side).

    Solving for ``b / scale`` and multiplying back is exact, and keeps inner products of tiny or
    huge right-hand sides away from underflow and overflow.
    """
    largest = (
        rhs.abs().amax(dim=-1, keepdim=True) if rhs.shape[-1] else rhs.new_zeros(*rhs.shape[:-1], 1)
    )
    _, exponent = torch.frexp(largest)
    # one less than frexp's, so that the largest finite number has a finite scale
    return torch.where(largest > 0, torch.exp2((exponent - 1).to(rhs.dtype)), 1.0)
