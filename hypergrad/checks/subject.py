"""The problem under examination, and what its examination has learnt so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.errors import HypergradError, InputError
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.cg import CG
from hypergrad.linear.cholesky import Cholesky
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import norm
from hypergrad.objective import Bilevel
from hypergrad.tree import flatten, leaves, like, unflatten


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn whatever a user's code raises into a refusal that says whose code it was."""
    try:
        yield
    except HypergradError:
        raise
    except Exception as error:  # any type may come out of code that is not ours
        raise InputError(f"{what} raised {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Plain:
    """An objective's values alone: without a closed form, and with its exceptions told.

    Attributes:
        objective: the user's.
        role: lower or upper.
    """

    objective: Callable[[Any, Any], Tensor]
    role: str

    def __call__(self, theta: Any, phi: Any) -> Tensor:
        """The values."""
        with told(f"the {self.role} objective"):
            return self.objective(theta, phi)


@dataclass(slots=True, kw_only=True)
class Subject:
    """What is examined, and how.

    Attributes:
        problem: as given.
        theta: detached.
        phi: detached.
        solver: for the adjoint system.
        accuracy: relative error of the hypergradient that its user can live with.
        size_limit: up to how many unknowns dense matrices are used.
        generator: of every random probe.
        batch: the tasks' dimensions, once known.
        trusted: what later checks may differentiate: g without its closed form if that is wrong.
        smallest: ``(*batch,)`` least eigenvalue, once known.
        largest: ``(*batch,)`` largest eigenvalue, once known.
    """

    problem: Bilevel[Any, Any]
    theta: Any
    phi: Any
    solver: LinearSolver
    accuracy: float
    size_limit: int
    generator: torch.Generator
    batch: Size = field(default_factory=Size)
    trusted: Bilevel[Any, Any] = field(init=False)
    smallest: Tensor = field(init=False, default_factory=lambda: torch.tensor(torch.nan))
    largest: Tensor = field(init=False, default_factory=lambda: torch.tensor(torch.nan))

    def __post_init__(self) -> None:
        self.trusted = self.problem

    @property
    def plain(self) -> Bilevel[Any, Any]:
        """The problem as autodiff alone sees it."""
        return Bilevel(
            upper=Plain(self.problem.upper, "upper"), lower=Plain(self.problem.lower, "lower")
        )

    @property
    def eps(self) -> float:
        """The precision."""
        return torch.finfo(leaves(self.phi)[0].dtype).eps

    @property
    def vector(self) -> Float[Tensor, "*batch n"]:
        """Phi as a vector for each task."""
        return flatten(leaves(self.phi), self.batch)

    @property
    def exact(self) -> LinearSolver:
        """The most accurate solver that this size allows."""
        if self.vector.shape[-1] <= self.size_limit:
            return Cholesky()
        return CG(rtol=self.eps**0.5)

    def tree(self, vector: Float[Tensor, "*batch n"]) -> Any:
        """A vector as a tree like phi."""
        return like(self.phi, unflatten(vector, leaves(self.phi)))

    def draw(self, shaped_as: Tensor) -> Tensor:
        """Standard normal numbers, the same on every device."""
        random = torch.randn(shaped_as.shape, generator=self.generator, dtype=torch.float64)
        return random.to(shaped_as)

    def directions(self) -> Float[Tensor, "*batch n"]:
        """A random unit vector for each task."""
        random = self.draw(self.vector)
        return random / norm(random)[..., None]

    def length(self) -> Float[Tensor, "*batch"]:
        """``|phi|``, or 1 where phi is 0: the scale on which phi is measured."""
        size = norm(self.vector)
        return torch.where(size > 0, size, 1.0)

    def linearise(self) -> Linearisation[Any, Any]:
        """Autodiff's derivatives at phi."""
        return Linearisation(self.plain.lower, self.theta, self.phi)


def noise(function: Callable[[float], Tensor], step: float) -> Tensor:
    """How much rounding is in a smooth function's values, measured and not assumed.

    Over seven points so close that the function is a line there, its fourth to sixth differences
    are made of rounding alone; the k-th has the variance ``(2k)!/(k!)^2`` of a value's own
    (Hamming; More and Wild 2011, section 2). The largest of the three estimates counts.
    """
    table = torch.stack([function(index * step).double() for index in range(-3, 4)])
    estimates = []
    for order in range(1, 7):
        table = table.diff(dim=0)
        variance = torch.exp(
            torch.lgamma(torch.tensor(2.0 * order + 1))
            - 2 * torch.lgamma(torch.tensor(order + 1.0))
        )
        if order >= 4:
            estimates.append((table.square().mean(dim=0) / variance).sqrt())
    return torch.stack(estimates).amax(dim=0)


def at_worst(measured: Tensor, limit: Tensor) -> tuple[float, float, int]:
    """The entry that is worst compared with its limit: measured, limit, index."""
    excess = (measured / limit.clamp(min=torch.finfo(limit.dtype).tiny)).reshape(-1)
    worst = int(excess.nan_to_num(nan=torch.inf, posinf=torch.inf).argmax())
    return float(measured.reshape(-1)[worst]), float(limit.reshape(-1)[worst]), worst
