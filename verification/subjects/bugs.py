"""Bugs planted on purpose in Algorithm 1: M01 to M25 of theory.md, section 5, and our own.

A bug inside the library is a change of its *source text*, so that what is tested is the shipped
code with one line wrong. A bug of composition (the right derivative at the wrong iterate) is a
subject that composes the library wrongly: there is no line of the library to change, which is given
phi_K, never sees phi_0, and leaves it to its caller which tasks there are.

Each names the claim that must notice it. M13 to M15 are missing: they are bugs of a sampler of
tasks, which hypergrad does not have. The bugs of other kinds stand beside their claims.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad import CG, Bilevel, GradientDescent, hypergradient
from hypergrad.implicit.curvature import Point
from hypergrad.implicit.linearise import Linearisation
from verification.subjects.algorithm1 import Subject, memory_reduced
from verification.subjects.bug import Bug, Kind, in_source

TensorBilevel = Bilevel[torch.Tensor, torch.Tensor]


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
        """Iterate of descent after so many steps."""
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


def transposed_cross(point: Point, v: torch.Tensor) -> list[torch.Tensor]:
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
    return in_source(memory_reduced, (module, old, new))


def _cg(old: str, new: str) -> Subject:
    """The same in both of CG's sweeps: for many tasks, and for one."""
    return in_source(memory_reduced, ("linear.cg", old, new), ("linear.cg_single", old, new))


_CROSS = "gradients = [-part for part in point.cross(v)]"
_MEAN = "tasks = max(values.numel(), 1)"
_SHARE = "(left + right) / tasks"

ALGORITHM = Kind(
    "Algorithm 1",
    memory_reduced,
    (
        Bug(
            "M01",
            "sign of the cross term",
            "finite steps on Quad",
            _source("implicit.pullback", _CROSS, _CROSS.replace("-part", "part")),
        ),
        Bug(
            "M02",
            "cross term dropped",
            "finite steps on Quad",
            _source("implicit.pullback", _CROSS, _CROSS.replace("-part", "0 * part")),
        ),
        Bug(
            "M03",
            "cross block transposed",
            "finite steps on Quad",
            _source(
                "implicit.pullback",
                _CROSS,
                "from verification.subjects.bugs import transposed_cross\n"
                "        gradients = [-part for part in transposed_cross(point, v)]",
            ),
        ),
        Bug(
            "M04",
            "sum over tasks",
            "independence of tasks",
            _source("implicit.pullback", _MEAN, "tasks = 1"),
        ),
        Bug(
            "M05",
            "mean over all M = 20 tasks there are",
            "independence of tasks",
            _source("implicit.pullback", _MEAN, "tasks = 20"),
        ),
        Bug(
            "M06",
            "CG one step short",
            "finite steps on Quad",
            _cg("range(budget)", "range(budget - 1)"),
        ),
        Bug(
            "M07",
            "CG takes r_0 = b though v_0 != 0",
            "finite steps on Quad",
            _source("linear.krylov", "if start is None else b - product.exact(x)", ""),
        ),
        Bug(
            "M08",
            "CG's beta inverted",
            "finite steps on Quad",
            _cg("rho / old", "old / rho"),
        ),
        Bug(
            "M09",
            "Hessian at phi_0",
            "finite steps on LC",
            Composed(lambda run: run.outcome(hessian_at=run.phi0)),
        ),
        Bug(
            "M10",
            "cross block at phi_0",
            "finite steps on LC",
            Composed(lambda run: run.outcome(cross_at=run.phi0)),
        ),
        Bug(
            "M11",
            "grad f at phi_0",
            "finite steps on Quad",
            Composed(lambda run: run.outcome(upper_at=run.phi0)),
        ),
        Bug(
            "M12",
            "grad f at phi_{K-1}",
            "finite steps on Quad",
            Composed(lambda run: run.outcome(upper_at=run.descend(run.steps - 1, run.phi0))),
        ),
        Bug(
            "M16",
            "K - 1 steps",
            "finite steps on Quad",
            _source(
                "lower.gradient_descent",
                "range(self.max_steps)",
                "range(self.max_steps - 1)",
            ),
        ),
        Bug(
            "M17",
            "K + 1 steps",
            "finite steps on Quad",
            _source(
                "lower.gradient_descent",
                "range(self.max_steps)",
                "range(self.max_steps + 1)",
            ),
        ),
        Bug(
            "M18",
            "damping by 1e-3 mu",
            "finite steps on Quad",
            Composed(lambda run: run.outcome(damping=1e-3)),
        ),
        Bug(
            "M19",
            "damping by 1e-8 mu",
            "finite steps on Quad",
            Composed(lambda run: run.outcome(damping=1e-8)),
        ),
        Bug(
            "M20",
            "vectors in float32",
            "finite steps on Quad",
            _source(
                "tree",
                "return vector.float() if vector.dtype in _HALF else vector",
                "return vector.float().to(vector.dtype)",
            ),
        ),
        Bug(
            "M21",
            "mean over the tasks in float32",
            "independence of tasks",
            _source("implicit.pullback", _SHARE, "((left + right).float() / tasks).to(left.dtype)"),
        ),
        Bug(
            "M22",
            "direct part d_theta f dropped",
            "finite steps on Quad",
            _source("implicit.pullback", _SHARE, "right / tasks"),
        ),
        Bug(
            "M23",
            "v = grad f, no solve",
            "finite steps on Quad",
            _source("implicit.pullback", _CROSS, _CROSS.replace("(v)", "(rhs)")),
        ),
        Bug(
            "M24",
            "half the step size",
            "finite steps on Quad",
            _source(
                "lower.gradient_descent",
                "self.step_size *",
                "self.step_size / 2 *",
            ),
        ),
        Bug("M25", "phi leaks between tasks", "independence of tasks", Composed(_leaked)),
        Bug(
            "A01",
            "the right-hand side's scale is not put back",
            "finite steps on Quad",
            _source("linear.krylov", "x=product.scaled(run.x, scale)", "x=run.x"),
        ),
        Bug(
            "A02",
            "the warm start is not scaled as the right-hand side is",
            "finite steps on Quad",
            _source("linear.krylov", "start / scale", "start"),
        ),
        Bug(
            "A03",
            "one step length for all tasks: inner products over the whole batch",
            "independence of tasks",
            _source(
                "linear.vectors",
                "torch.linalg.vecdot(left, right)",
                "(left * right).sum().expand(left.shape[:-1]).clone()",
            ),
        ),
        Bug(
            "A04",
            "steepest descent: directions are not conjugate",
            "finite steps on Quad",
            _cg("rho / old", "0 * rho"),
        ),
        Bug(
            "A05",
            "each Hessian product is taken twice",
            "oracle calls",
            _cg("ap = product(p)", "product(p)\n        ap = product(p)"),
        ),
        Bug(
            "A06",
            "descent follows the mean over the tasks",
            "independence of tasks",
            _source(
                "lower.descent",
                "torch.autograd.grad(values.sum(), points)",
                "torch.autograd.grad(values.mean(), points)",
            ),
        ),
        Bug(
            "A07",
            "the products' graph is built at a float32 copy of phi",
            "finite steps on LC",
            _source(
                "implicit.linearise",
                "fresh_leaf(leaf) for leaf in leaves(phi)]",
                "fresh_leaf(leaf.float().to(leaf.dtype)) for leaf in leaves(phi)]",
            ),
        ),
    ),
)
