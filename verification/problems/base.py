"""Interface of the exact families, and the constants the error bounds are made of.

Shapes: batch (*batch), p upper variables, q lower variables; theta (p,) is shared by all tasks.
Pieces in NumPy accept complex arrays, so that a complex step can differentiate them.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64, Inexact

if TYPE_CHECKING:
    import torch

    from hypergrad import Bilevel

    Tensor: TypeAlias = torch.Tensor
    TensorBilevel: TypeAlias = Bilevel[torch.Tensor, torch.Tensor]
    DType: TypeAlias = torch.dtype
    Device: TypeAlias = torch.device | str
else:
    # The oracles are made of families and must owe nothing to torch or hypergrad: neither is
    # imported before a family's `bilevel` is asked for.
    Tensor = TensorBilevel = DType = Device = object

Batch: TypeAlias = tuple[()] | tuple[int] | tuple[int, int]
"""One task, a batch of tasks, or a table of them."""


@dataclass(frozen=True)
class FamilyConstants:
    """Constants of each task at one theta, under the names of theory.md, section 0.

    They are derived in theory.md, section 1: ours, not the paper's. `C_f` is infinite where the
    upper gradient has no global bound; `V` is local, the norm of the adjoint at this theta.

    Attributes:
        strong_convexity: mu, a lower bound on the eigenvalues of H.
        smoothness: L, an upper bound on the eigenvalues of H.
        L12: bound on |J| in the ball that was asked for.
        lam12: Lipschitz constant of grad_theta f in phi, and of grad_phi f in theta.
        lam22: Lipschitz constant of grad_phi f in phi.
        rH: Lipschitz constant of H in phi.
        rJ: Lipschitz constant of J in phi.
        C_f: global bound on |grad_phi f|, or infinity.
        V: |v*|.
    """

    strong_convexity: Float64[np.ndarray, "*batch"]
    smoothness: Float64[np.ndarray, "*batch"]
    L12: Float64[np.ndarray, "*batch"]
    lam12: Float64[np.ndarray, "*batch"]
    lam22: Float64[np.ndarray, "*batch"]
    rH: Float64[np.ndarray, "*batch"]
    rJ: Float64[np.ndarray, "*batch"]
    C_f: Float64[np.ndarray, "*batch"]
    V: Float64[np.ndarray, "*batch"]

    @property
    def condition(self) -> Float64[np.ndarray, "*batch"]:
        """Kappa = L/mu of each task."""
        return np.asarray(self.smoothness / self.strong_convexity)

    @property
    def c1(self) -> Float64[np.ndarray, "*batch"]:
        """Factor from an error in phi to one in the hypergradient: c1 of theory.md, section 2."""
        s = self.L12 / self.strong_convexity
        return np.asarray(self.lam12 + self.rJ * self.V + s * (self.lam22 + self.rH * self.V))


@dataclass(frozen=True)
class Magnitudes:
    """Norms of the terms a gradient is the sum of: what its rounding error is relative to.

    A gradient may cancel to nearly zero while its terms stay large; a rounding error is
    bounded by a few units in the last place of the terms, not of their sum.
    """

    lower: Float64[np.ndarray, "*batch"]
    upper_theta: Float64[np.ndarray, "*batch"]
    upper_phi: Float64[np.ndarray, "*batch"]


@runtime_checkable
class Family(Protocol):
    """A batch of tasks whose minimisers and derivatives are known without autodiff."""

    @property
    def batch(self) -> Batch:
        """Leading dimensions: one task for each index."""
        ...

    @property
    def upper_size(self) -> int:
        """Number p of upper variables."""
        ...

    @property
    def lower_size(self) -> int:
        """Number q of lower variables of each task."""
        ...

    @property
    def terms(self) -> int:
        """Length of the longest inner product in the objectives: sets the rounding constant."""
        ...

    def lower_gradient(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q"]:
        """Gradient of g in phi."""
        ...

    def hessian(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q q"]:
        """H = d2g/dphi2."""
        ...

    def cross(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch p q"]:
        """J: row j is the derivative of grad_phi g in theta_j."""
        ...

    def upper_gradients(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> tuple[Inexact[np.ndarray, "*batch p"], Inexact[np.ndarray, "*batch q"]]:
        """Gradients of f in theta and in phi."""
        ...

    def minimiser(self, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, "*batch q"]:
        """phi*(theta), in closed form or by Newton's method to round-off."""
        ...

    def magnitudes(
        self, theta: Float64[np.ndarray, " p"], phi: Float64[np.ndarray, "*batch q"]
    ) -> Magnitudes:
        """Norms of the terms of the gradients."""
        ...

    def constants(
        self, theta: Float64[np.ndarray, " p"], *, radius: float = 0.0
    ) -> FamilyConstants:
        """Constants valid on the ball of this radius around the minimiser of each task."""
        ...

    def bilevel(self, dtype: DType | None = None, device: Device = "cpu") -> TensorBilevel:
        """The same problem as torch objectives, one value per task; float64 unless said."""
        ...


Tasks = TypeVar("Tasks")


def take(tasks: Tasks, index: Any) -> Tasks:
    """The tasks at `index` (anything NumPy indexes leading dimensions by), as a family again."""
    if not is_dataclass(tasks) or isinstance(tasks, type):
        raise TypeError(f"take() got {type(tasks).__name__}; it needs a family, a dataclass.")
    picked: dict[str, Any] = {}
    for field in fields(tasks):
        value = getattr(tasks, field.name)
        if isinstance(value, np.ndarray):
            # a scalar left by the indexing is an array of shape ()
            picked[field.name] = np.asarray(value[index])
        else:
            picked[field.name] = take(value, index)
    return replace(tasks, **picked)


def matvec(
    matrix: Inexact[np.ndarray, "*batch m n"], vector: Inexact[np.ndarray, "*batch n"]
) -> Inexact[np.ndarray, "*batch m"]:
    """Each task's matrix times its vector."""
    return np.asarray((matrix @ vector[..., None])[..., 0])


def transposed(matrix: Inexact[np.ndarray, "*batch m n"]) -> Inexact[np.ndarray, "*batch n m"]:
    """Each task's matrix, transposed (not conjugated: a complex step must pass)."""
    return np.swapaxes(matrix, -1, -2)


def solve(
    matrix: Inexact[np.ndarray, "*batch n n"], rhs: Inexact[np.ndarray, "*batch n"]
) -> Inexact[np.ndarray, "*batch n"]:
    """Each task's linear system, by LAPACK's LU: normwise backward stable."""
    return np.asarray(np.linalg.solve(matrix, rhs[..., None])[..., 0])


def norm(vector: Float64[np.ndarray, "*batch n"]) -> Float64[np.ndarray, "*batch"]:
    """Euclidean norm of each task's vector."""
    return np.asarray(np.linalg.norm(vector, axis=-1))


def spectral_norm(matrix: Float64[np.ndarray, "*batch m n"]) -> Float64[np.ndarray, "*batch"]:
    """Largest singular value of each task's matrix."""
    return np.asarray(np.linalg.norm(matrix, ord=2, axis=(-2, -1)))


def tensor(array: Float64[np.ndarray, "..."], dtype: DType | None, device: Device) -> Tensor:
    """A copy of the array as a tensor, float64 unless said."""
    import torch

    return torch.tensor(array, dtype=dtype or torch.float64, device=device)
