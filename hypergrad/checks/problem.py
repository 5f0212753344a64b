"""The problem under examination, what its examination has learnt so far, and its hypergradient."""

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
from hypergrad.implicit.pullback import Hypergradient, hypergradient
from hypergrad.linear.cg import CG
from hypergrad.linear.cholesky import Cholesky, dense
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.linear.solution import LinearSolver, Solution, direct
from hypergrad.linear.vectors import norm
from hypergrad.lower.newton import Newton
from hypergrad.objective import Bilevel
from hypergrad.tree import Tree, flatten, fresh_leaf, leaves, like, unflatten

# Newton's method as far as the precision goes. CG's directions use negative curvature, where there
# is some, and never go uphill.
LONG = Newton(rtol=0.0, max_steps=200, solver=CG(rtol=1e-3))


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn whatever a user's code raises into an error that says whose code it was."""
    try:
        yield
    except HypergradError:
        raise
    except Exception as error:  # any type may come out of code that is not ours
        raise InputError(f"{what} raised {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Plain:
    """An objective's values alone, without a closed form; exceptions name the objective.

    Attributes:
        objective: the user's.
        role: lower or upper.
    """

    objective: Callable[[Any, Any], Tensor]
    role: str

    def __call__(self, theta: Any, phi: Any) -> Tensor:
        """The values."""
        with blaming(f"the {self.role} objective"):
            return self.objective(theta, phi)


@dataclass(frozen=True, slots=True)
class LU:
    """A dense solve for Hessians that are not positive definite."""

    @torch.no_grad()
    def solve(self, apply: LinearMap, rhs: Tensor, start: Tensor | None = None) -> Solution:
        """Solve ``A x = b`` for each task; ``start`` has no use here."""
        operator = Operator(apply)
        x, _ = torch.linalg.solve_ex(dense(operator, rhs), rhs[..., None])
        return direct(operator, x[..., 0], rhs, rtol=1e-6)


def exact_solver(unknowns: int, eps: float, size_limit: int) -> LinearSolver:
    """Dense where a task is small; else conjugate gradients to half of the digits."""
    return Cholesky() if unknowns <= size_limit else CG(rtol=eps**0.5)


@dataclass(slots=True, kw_only=True, eq=False)
class Problem:
    """Problem under examination, with the settings and what is known so far.

    Attributes:
        bilevel: f and g, as given.
        theta: upper variable.
        start: phi as given.
        at_minimiser: True if the phi given is the minimiser.
        given_solver: solver of the adjoint system; None means CG to half of the digits.
        accuracy: relative error of the hypergradient that its user can live with.
        size_limit: number of unknowns up to which dense matrices are used.
        generator: source of every random probe.
        phi: point for the derivatives; the minimiser once :meth:`solve` has found it.
        batch: the tasks' dimensions, once known.
        trusted: objectives for later checks: g without its closed form if that is wrong.
        smallest: ``(*batch,)`` least absolute eigenvalue of the Hessian at phi, once known.
        largest: ``(*batch,)`` largest absolute eigenvalue, once known.
        definite: True as long as no task's Hessian is known to have a negative eigenvalue.
        obstacle: reason if the Hessian can't be inverted; else empty.
        solved: origin of phi, in words.
        unsolved: reason if phi is no minimiser; else empty.
    """

    bilevel: Bilevel[Any, Any]
    theta: Any
    start: Any
    at_minimiser: bool
    given_solver: LinearSolver | None
    accuracy: float
    size_limit: int
    generator: torch.Generator
    phi: Any = field(init=False)
    batch: Size = field(default_factory=Size)
    trusted: Bilevel[Any, Any] = field(init=False)
    smallest: Tensor = field(init=False, default_factory=lambda: torch.tensor(torch.nan))
    largest: Tensor = field(init=False, default_factory=lambda: torch.tensor(torch.nan))
    definite: bool = field(init=False, default=True)
    obstacle: str = field(init=False, default="")
    solved: str = field(init=False, default="phi: as given")
    unsolved: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.phi, self.trusted = self.start, self.bilevel

    def solve(self) -> None:
        """Move phi from the start to the minimiser, unless it is said to be that."""
        if self.at_minimiser:
            self.solved = "phi: as given, said to be the minimiser"
            return
        try:
            found = LONG.minimise(self.plain.lower, self.theta, self.start)
        except (HypergradError, RuntimeError) as error:  # the start will have to do
            self.unsolved = f"Newton's method from the phi given: {error}"
            return
        self.phi = found.phi
        self.solved = f"phi: found from the one given by Newton's method, in {found.steps} steps"

    @property
    def plain(self) -> Bilevel[Any, Any]:
        """The problem as autodiff alone sees it."""
        return Bilevel(
            upper=Plain(self.bilevel.upper, "upper"), lower=Plain(self.bilevel.lower, "lower")
        )

    @property
    def solver(self) -> LinearSolver:
        """The solver of the adjoint system."""
        return CG(rtol=self.eps**0.5) if self.given_solver is None else self.given_solver

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
        """The most accurate solver for the Hessian at phi that this size allows."""
        if self.definite:
            return exact_solver(self.vector.shape[-1], self.eps, self.size_limit)
        return LU()

    @property
    def rounding(self) -> float:
        """The rounding to allow a hypergradient, relative (theory.md, Theorem FP)."""
        return 100 * self.eps * float((self.largest / self.smallest).max())

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


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A hypergradient taken apart.

    Attributes:
        total: ``(p,)`` h = mean_i (d f_i/d theta - J_i v_i).
        direct: ``(p,)`` its first term.
        cotangent: ``(*batch, n)`` d f_i/d phi.
        whole: hypergradient of the library.
    """

    total: Tensor
    direct: Tensor
    cotangent: Tensor
    whole: Hypergradient[Any]

    @property
    def size(self) -> float:
        """The terms' size, which does not vanish where they cancel (an upper minimiser)."""
        return float(self.direct.norm() + (self.total - self.direct).norm())


def differentiate(
    problem: Problem, bilevel: Bilevel[Any, Any], phi: Any, solver: LinearSolver
) -> Parts:
    """The library's hypergradient at phi, and its parts."""
    whole = hypergradient(bilevel, problem.theta, phi, solver=solver)
    theta = [fresh_leaf(leaf) for leaf in leaves(problem.theta)]
    probes = [fresh_leaf(leaf) for leaf in leaves(phi)]
    with torch.enable_grad():
        values = problem.plain.upper(like(problem.theta, theta), like(phi, probes))
        slopes = torch.autograd.grad(
            values.sum(), [*theta, *probes], allow_unused=True, materialize_grads=True
        )
    direct_term = torch.cat([part.reshape(-1) for part in slopes[: len(theta)]]) / values.numel()
    cotangent = flatten(slopes[len(theta) :], problem.batch)
    return Parts(flat(whole.grad), direct_term, cotangent, whole)


def flat(tree: Tree) -> Tensor:
    """All of a tree's numbers in one vector."""
    return torch.cat([leaf.detach().reshape(-1) for leaf in leaves(tree)])


def noise(function: Callable[[float], Tensor], step: float) -> Tensor:
    """Rounding in a smooth function's values, measured and not assumed.

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
