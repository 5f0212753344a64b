"""Bugs planted on purpose in Algorithm 1: M01 to M25 of theory.md, section 5, and our own.

A bug inside the library is a change of its *source text*, so that what is tested is the shipped
code with one line wrong. A bug of composition (the right derivative at the wrong iterate) is a
subject that composes the library wrongly: there is no line of the library to change, which is given
phi_K, never sees phi_0, and leaves it to its caller which tasks there are.

M13 to M15 are bugs of a sampler, and stand beside its claim; so do the bugs of other kinds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad import CG, Bilevel, GradientDescent, hypergradient
from hypergrad.implicit.linearise import Linearisation
from verification.subjects.algorithm1 import Subject, memory_reduced
from verification.subjects.planting import InSource, SourceBug

TensorBilevel = Bilevel[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Mutant:
    """A subject with a bug, and the claim that must notice.

    Attributes:
        name: its number in theory.md, section 5.
        bug: what is wrong, in words.
        assigned: the claim that theory.md assigns it to.
        subject: Algorithm 1 with the bug.
    """

    name: str
    bug: str
    assigned: str
    subject: Subject

    def __str__(self) -> str:
        return f"{self.name} {self.bug}"


@dataclass(frozen=True)
class Run:
    """Algorithm 1 after its descent, for a bug of composition to take apart."""

    problem: TensorBilevel
    theta: torch.Tensor  # (p,)
    phi0: torch.Tensor  # (*batch, q)
    v0: torch.Tensor | None  # (*batch, q)
    steps: int
    max_steps: int
    step_size: float

    def descend(self, steps: int, start: torch.Tensor) -> torch.Tensor:
        """Where descent is after so many steps."""
        descent = GradientDescent(max_steps=steps, step_size=self.step_size)
        return descent.minimise(self.problem.lower, self.theta, start).phi

    def outcome(
        self,
        *,
        upper_at: torch.Tensor | None = None,
        hessian_at: torch.Tensor | None = None,
        cross_at: torch.Tensor | None = None,
        phi: torch.Tensor | None = None,
        damping: float = 0.0,
    ) -> torch.Tensor:
        """The hypergradient with its pieces taken at these points; phi_K where none is given."""
        end = self.descend(self.steps, self.phi0) if phi is None else phi
        upper_at = end if upper_at is None else upper_at
        hessian_at = end if hessian_at is None else hessian_at
        cross_at = end if cross_at is None else cross_at
        lower, upper = self.problem.lower, self.problem.upper
        # objectives shifted so that their derivatives at phi_K are those at the other point
        shifted: Bilevel[Tensor, Tensor] = Bilevel(
            upper=lambda theta, phi: upper(theta, phi - end + upper_at),
            lower=lambda theta, phi: (
                lower(theta, phi - end + hessian_at)
                + 0.5 * damping * self.least_curvature(end) * (phi - end).square().sum(-1)
            ),
        )
        solver = CG(max_steps=self.max_steps, rtol=0.0)
        result = hypergradient(shifted, self.theta, end, solver=solver, start=self.v0)
        v = result.certificate.adjoint.x
        (there,) = Linearisation(lower, self.theta, cross_at).cross(v)
        (here,) = Linearisation(lower, self.theta, hessian_at).cross(v)
        # J has come from the point of the Hessian: exchange it
        return result.grad + (here - there) / max(1, self.phi0.shape[:-1].numel())

    def least_curvature(self, phi: torch.Tensor) -> torch.Tensor:
        """Smallest eigenvalue of each task's Hessian, (*batch,)."""
        point = Linearisation(self.problem.lower, self.theta, phi)
        columns = [point.product(unit.expand_as(phi)) for unit in torch.eye(phi.shape[-1]).to(phi)]
        eigenvalues: torch.Tensor = torch.linalg.eigvalsh(torch.stack(columns, dim=-1))
        return eigenvalues[..., 0]


@dataclass(frozen=True)
class Composed:
    """A subject that composes the library wrongly."""

    compose: Callable[[Run], torch.Tensor]

    def __call__(
        self,
        problem: TensorBilevel,
        theta: Float[torch.Tensor, " p"],
        phi0: Float[torch.Tensor, "*batch q"],
        v0: Float[torch.Tensor, "*batch q"] | None,
        *,
        steps: int,
        max_steps: int,
        step_size: float,
    ) -> Float[torch.Tensor, " p"]:
        """See `Subject`."""
        return self.compose(Run(problem, theta, phi0, v0, steps, max_steps, step_size))


def transposed_cross(
    point: Linearisation[torch.Tensor, torch.Tensor], v: torch.Tensor
) -> list[torch.Tensor]:
    """J' v instead of J v, summed over the tasks; p = q."""
    total = torch.zeros_like(v[(0,) * (v.ndim - 1)])
    size = v.shape[-1]
    for task in range(v.numel() // size):
        columns = []
        for j in range(size):
            unit = torch.zeros_like(v).reshape(-1, size)
            unit[task, j] = 1.0
            columns.append(point.cross(unit.reshape(v.shape))[0])
        total += torch.stack(columns, dim=-1).T @ v.reshape(-1, size)[task]
    return [total]


def _leaked(run: Run) -> torch.Tensor:
    """Descent that is not reset: each task but the first starts where its neighbour ended."""
    phi = run.descend(run.steps, run.phi0)
    if phi.ndim > 1:
        start = torch.cat([run.phi0[:1], phi[:-1]])
        phi = run.descend(run.steps, start)
    return run.outcome(phi=phi)


def _source(module: str, old: str, new: str) -> Subject:
    return InSource((SourceBug(f"hypergrad.{module}", old, new),), memory_reduced)


def _cg(old: str, new: str) -> Subject:
    """The same in both of CG's sweeps: for many tasks, and for one."""
    modules = ("hypergrad.linear.cg", "hypergrad.linear.cg_single")
    return InSource(tuple(SourceBug(module, old, new) for module in modules), memory_reduced)


_CROSS = "gradients = [-part for part in point.cross(solution.x)]"
_MEAN = "tasks = max(values.numel(), 1)"
_SHARE = "(left + right) / tasks"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "M01",
        "sign of the cross term",
        "D2",
        _source("implicit.pullback", _CROSS, _CROSS.replace("-part", "part")),
    ),
    Mutant(
        "M02",
        "cross term dropped",
        "D2",
        _source("implicit.pullback", _CROSS, _CROSS.replace("-part", "0 * part")),
    ),
    Mutant(
        "M03",
        "cross block transposed",
        "D2",
        _source(
            "implicit.pullback",
            _CROSS,
            "from verification.subjects.bugs import transposed_cross\n"
            "    gradients = [-part for part in transposed_cross(point, solution.x)]",
        ),
    ),
    Mutant("M04", "sum over tasks", "D6", _source("implicit.pullback", _MEAN, "tasks = 1")),
    Mutant(
        "M05",
        "mean over all M = 20 tasks there are",
        "D6",
        _source("implicit.pullback", _MEAN, "tasks = 20"),
    ),
    Mutant(
        "M06",
        "CG one step short",
        "D2",
        _cg("range(budget)", "range(budget - 1)"),
    ),
    Mutant(
        "M07",
        "CG takes r_0 = b though v_0 != 0",
        "D2",
        _source("linear.krylov", "if start is None else b - product.exact(x)", ""),
    ),
    Mutant(
        "M08",
        "CG's beta inverted",
        "D2",
        _cg("rho / old", "old / rho"),
    ),
    Mutant(
        "M09",
        "Hessian at phi_0",
        "D3",
        Composed(lambda run: run.outcome(hessian_at=run.phi0)),
    ),
    Mutant(
        "M10",
        "cross block at phi_0",
        "D3",
        Composed(lambda run: run.outcome(cross_at=run.phi0)),
    ),
    Mutant(
        "M11",
        "grad f at phi_0",
        "D2",
        Composed(lambda run: run.outcome(upper_at=run.phi0)),
    ),
    Mutant(
        "M12",
        "grad f at phi_{K-1}",
        "D2",
        Composed(lambda run: run.outcome(upper_at=run.descend(run.steps - 1, run.phi0))),
    ),
    Mutant(
        "M16",
        "K - 1 steps",
        "D2",
        _source(
            "lower.gradient_descent",
            "range(self.max_steps)",
            "range(self.max_steps - 1)",
        ),
    ),
    Mutant(
        "M17",
        "K + 1 steps",
        "D2",
        _source(
            "lower.gradient_descent",
            "range(self.max_steps)",
            "range(self.max_steps + 1)",
        ),
    ),
    Mutant(
        "M18",
        "damping by 1e-3 mu",
        "D2",
        Composed(lambda run: run.outcome(damping=1e-3)),
    ),
    Mutant(
        "M19",
        "damping by 1e-8 mu",
        "D2",
        Composed(lambda run: run.outcome(damping=1e-8)),
    ),
    Mutant(
        "M20",
        "vectors in float32",
        "D2",
        _source(
            "tree",
            "return vector.float() if vector.dtype in _HALF else vector",
            "return vector.float().to(vector.dtype)",
        ),
    ),
    Mutant(
        "M21",
        "mean over the tasks in float32",
        "D6",
        _source("implicit.pullback", _SHARE, "((left + right).float() / tasks).to(left.dtype)"),
    ),
    Mutant(
        "M22",
        "direct part d_theta f dropped",
        "D2",
        _source("implicit.pullback", _SHARE, "right / tasks"),
    ),
    Mutant(
        "M23",
        "v = grad f, no solve",
        "D2",
        _source("implicit.pullback", _CROSS, _CROSS.replace("solution.x", "rhs")),
    ),
    Mutant(
        "M24",
        "half the step size",
        "D2",
        _source(
            "lower.gradient_descent",
            "self.step_size *",
            "self.step_size / 2 *",
        ),
    ),
    Mutant("M25", "phi leaks between tasks", "D6", Composed(_leaked)),
    Mutant(
        "A01",
        "the right-hand side's scale is not put back",
        "D2",
        _source("linear.krylov", "x=product.scaled(run.x, scale)", "x=run.x"),
    ),
    Mutant(
        "A02",
        "the warm start is not scaled as the right-hand side is",
        "D2",
        _source("linear.krylov", "start / scale", "start"),
    ),
    Mutant(
        "A03",
        "one step length for all tasks: inner products over the whole batch",
        "D6",
        _source(
            "linear.vectors",
            "torch.linalg.vecdot(left, right)",
            "(left * right).sum().expand(left.shape[:-1]).clone()",
        ),
    ),
    Mutant(
        "A04",
        "steepest descent: directions are not conjugate",
        "D2",
        _cg("rho / old", "0 * rho"),
    ),
    Mutant(
        "A05",
        "each Hessian product is taken twice",
        "C8",
        _cg("ap = product(p)", "product(p)\n        ap = product(p)"),
    ),
    Mutant(
        "A06",
        "descent follows the mean over the tasks",
        "D6",
        _source(
            "lower.descent",
            "torch.autograd.grad(values.sum(), points)",
            "torch.autograd.grad(values.mean(), points)",
        ),
    ),
    Mutant(
        "A07",
        "the products' graph is built at a float32 copy of phi",
        "D3",
        _source(
            "implicit.linearise",
            "fresh_leaf(leaf) for leaf in leaves(phi)]",
            "fresh_leaf(leaf.float().to(leaf.dtype)) for leaf in leaves(phi)]",
        ),
    ),
)
