"""The operator of a linear system: products with one matrix per task, and what else is known."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable
from weakref import ref

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.guards import may_look
from hypergrad.linear.vectors import relative

LinearMap: TypeAlias = Callable[[Tensor], Tensor]
"""``(*batch, n) -> (*batch, n)``: one n x n matrix for each task, applied to each task's vector."""


class Kind(enum.IntEnum):
    """Kinds of matrices; each has the properties of those before it."""

    GENERAL = 0
    SYMMETRIC = 1
    DEFINITE = 2


@dataclass(frozen=True)
class Halves:
    """The two systems of ``[[0, A'], [A, 0]] (a, b) = (c, d)``: ``A' b = c`` and ``A a = d``."""

    transposed: Operator
    forward: Operator


@runtime_checkable
class HessianForm(Protocol):
    """A Hessian in closed form, at one point, for a batch of tasks."""

    def product(self, vector: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """``H v``."""
        ...

    def inverse(self, rhs: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """``H^{-1} b`` by a direct method."""
        ...

    def diagonal(self) -> Float[Tensor, "*batch n"]:
        """The diagonal of H."""
        ...


SHORT: Final = 4096  # entries of a vector that may be copied without a thought


class _Seen:
    """A vector and its exact product, recognised until somebody writes into one of them.

    What torch writes raises a tensor's version; what NumPy writes does not, and is seen by the
    values. On a device a comparison would make the host wait, and versions have to do.
    """

    def __init__(self, vector: Tensor, image: Tensor) -> None:
        self.image = image
        self._vector, self._versions = vector, (vector._version, image._version)
        self._print = _print(vector).clone() if may_look(vector) else None
        # b, its version, the residual; b is not kept for its residual's sake
        self._solved: tuple[ref[Tensor], int, Tensor] | None = None

    def is_of(self, vector: Tensor) -> bool:
        """True if this is the same vector, unchanged."""
        known = vector is self._vector and self._versions == (vector._version, self.image._version)
        return known and (self._print is None or torch.equal(self._print, _print(vector)))

    def residual(self, rhs: Tensor) -> Tensor:
        """``|b - A x| / |b|`` for each task."""
        if self._solved is not None:
            seen, version, found = self._solved
            if seen() is rhs and version == rhs._version:
                return found
        found = relative(rhs - self.image, rhs)
        self._solved = ref(rhs), rhs._version, found
        return found


def _print(vector: Tensor) -> Tensor:
    """Fingerprint of a vector: all of a short one, two sums of one that fills memory."""
    if vector.numel() <= SHORT:
        return vector
    flat = vector.detach().reshape(-1)
    return torch.stack((flat.sum(), flat.dot(flat)))


@dataclass(slots=True)
class _Memory:
    """Knowledge of a matrix from the solves so far."""

    seen: _Seen | None = None
    inverse: LinearMap | None = None
    inverse_transposed: LinearMap | None = None


class Operator:
    """``A + damping I``, counting its products.

    Answers are verified by :meth:`exact`, which may be derived independently of the product that
    the iterations use. The last vector given to it and its image are kept, so that the kernel need
    not repeat the product a solver ended with.

    Args:
        apply: the product that iterations use; or another operator, whose memory is shared.
        exact: the product that verifies; None: the same.
        final: the exact product with an answer, which may prepare for what comes after the solve.

    Attributes:
        form: the closed form, if A has one.
        kind: known properties of A.
        transposed: true if A is the transpose of an equation's Jacobian.
        halves: the systems that A falls into, if it is the matrix of a saddle.
        accuracy: relative error of a product beyond rounding, of differences say; solves ask for no
            smaller residual unless asked to.
        matvecs: products taken through this object.
    """

    def __init__(
        self,
        apply: LinearMap,
        *,
        exact: LinearMap | None = None,
        final: LinearMap | None = None,
        form: HessianForm | None = None,
        damping: float | Float[Tensor, "*batch 1"] = 0.0,
        kind: Kind = Kind.DEFINITE,
        transposed: bool = False,
        halves: Halves | None = None,
        accuracy: float = 0.0,
    ) -> None:
        known = apply if isinstance(apply, Operator) else None
        self._product: LinearMap = apply if known is None else known._product
        self._exact: LinearMap = (exact or apply) if known is None else known._exact
        self._final: LinearMap = (final or self._exact) if known is None else known._final
        self.form: HessianForm | None = form if known is None else known.form
        self.accuracy: float = accuracy if known is None else known.accuracy
        self._memory: _Memory = _Memory() if known is None else known._memory
        self.kind: Kind = kind if known is None else known.kind
        self.transposed: bool = transposed if known is None else known.transposed
        self.halves: Halves | None = halves if known is None else known.halves
        self._damping = damping
        self._undamped = isinstance(damping, float) and not damping
        self.matvecs = 0

    def __call__(self, vector: Tensor) -> Tensor:
        """The product that a solver's iterations use."""
        return self._damped(self._product(vector), vector)

    def exact(self, vector: Tensor) -> Tensor:
        """The exact product, by which answers are verified; remembered."""
        return self._damped(self._keep(vector, self._exact(vector)), vector)

    def zeros(self, rhs: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """A cold start, whose product is known to be zero."""
        zero = torch.zeros_like(rhs)
        self._keep(zero, zero)
        return zero

    def scaled(
        self, x: Float[Tensor, "*batch n"], scale: Float[Tensor, "*batch 1"]
    ) -> Float[Tensor, "*batch n"]:
        """``x * scale``, the answer to ``scale b`` if x is that to b; keeps its exact product."""
        answer = x * scale
        if (image := self._recall(x)) is not None:
            self._keep(answer, image * scale)
        return answer

    def image(self, answer: Tensor) -> Tensor:
        """``A x``, without a product if the last exact one was of this tensor."""
        return self._answered(answer).image

    def residual(self, rhs: Tensor, answer: Tensor) -> Tensor:
        """``|b - A x| / |b|`` for each task by an exact product, which is the last one of a solve.

        A stands without damping. The product and the residual are remembered.
        """
        return self._answered(answer).residual(rhs)

    @property
    def rough(self) -> bool:
        """True if iterations use other products than the exact ones, and no closed form's."""
        return self.form is None and self._exact is not self._product

    @property
    def inverse(self) -> LinearMap | None:
        """The product with ``A^-1`` by the factor of a direct solve, if there was one."""
        return self._memory.inverse

    @property
    def inverse_transposed(self) -> LinearMap | None:
        """The product with ``A'^-1`` by the factor of a direct solve, if there was one."""
        return self._memory.inverse_transposed

    def leave(self, inverse: LinearMap, transposed: LinearMap) -> None:
        """Keep the products with ``A^-1`` and ``A'^-1`` of a direct solve, for later reads."""
        self._memory.inverse, self._memory.inverse_transposed = inverse, transposed

    def diagonal(self) -> Tensor | None:
        """The diagonal, if the closed form knows it."""
        return None if self.form is None else self.form.diagonal() + self._damping

    def _damped(self, image: Tensor, vector: Tensor) -> Tensor:
        self.matvecs += 1
        if self._undamped:
            return image
        # one vector in all, and none for the multiple
        if isinstance(self._damping, float):
            return image.add(vector, alpha=self._damping)
        return image.addcmul(self._damping, vector)

    def _answered(self, answer: Tensor) -> _Seen:
        seen = self._memory.seen
        if seen is None or not seen.is_of(answer):
            self.matvecs += 1
            seen = self._memory.seen = _Seen(answer, self._final(answer))
        return seen

    def _keep(self, vector: Tensor, image: Tensor) -> Tensor:
        self._memory.seen = _Seen(vector, image)
        return image

    def _recall(self, vector: Tensor) -> Tensor | None:
        seen = self._memory.seen
        return seen.image if seen is not None and seen.is_of(vector) else None
