"""A Krylov solver ends after as many steps as the matrix it sees has different eigenvalues.

    H = X'X/n + D, X of n << q rows                                    (theory.md, section 8)

D = l2 I gives n + 1 different eigenvalues, and so does any D to conjugate gradients preconditioned
by the inverse of D, for D^{-1/2} H D^{-1/2} is I and n more. A preconditioner that is wrong, a
recurrence that loses conjugacy or a shift that was forgotten take longer. Nystrom's of rank n knows
all of H: two eigenvalues at most. `Cholesky` and `Woodbury` solve directly.

Where all eigenvalues differ, Chebyshev's bound says how many steps suffice.

Solvers are asked for |b - H x| <= rtol |b|, rtol = 1e-9, and |x - x*| <= |r|/mu. EXTRA steps are
for rounding, which costs one or two at such kappa (theory.md, section 6).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch

from hypergrad import CG, MINRES, Cholesky, LinearSolver, NormalCG, Solution, Woodbury
from hypergrad.implicit.curvature import Hessian
from hypergrad.linear.preconditioners import Jacobi, Nystrom
from hypergrad.objectives import RidgeRegression
from verification.claims.evidence import Evidence, worst
from verification.oracles.rounding import unit_roundoff
from verification.problems import drawn as instances
from verification.problems.base import norm
from verification.subjects.bug import Bug, Kind, in_source, source_bugs

RTOL = 1e-9
EXTRA = 3


@dataclass(frozen=True)
class System:
    """H x = b for each of T tasks, and how it came about.

    Attributes:
        X: (T, n, q) support features.
        D: (T, q) diagonal; the same number throughout if it is a ridge's.
        b: (T, q).
        ridge: True if the library gets H as the Hessian of its ridge regression.
    """

    X: torch.Tensor
    D: torch.Tensor
    b: torch.Tensor
    ridge: bool

    def apply(self, vector: torch.Tensor) -> torch.Tensor:
        """H v."""
        image = (self.X @ vector[..., None])[..., 0]
        back: torch.Tensor = (self.X.mT @ image[..., None])[..., 0] / self.X.shape[-2]
        return back + self.D * vector


@runtime_checkable
class Solvers(Protocol):
    """The library's linear solvers, by name."""

    def __call__(self, name: str, system: System, steps: int) -> Solution:
        """Solution of the system by this solver within so many steps."""
        ...


Make: TypeAlias = Callable[[System, int], LinearSolver]
SOLVERS: Mapping[str, Make] = {
    "CG": lambda s, k: CG(rtol=RTOL, max_steps=k),
    "MINRES": lambda s, k: MINRES(rtol=RTOL, max_steps=k),
    "NormalCG": lambda s, k: NormalCG(rtol=RTOL, max_steps=k),
    "CG with Nystrom": lambda s, k: CG(
        rtol=RTOL,
        max_steps=k,
        preconditioner=Nystrom(rank=s.X.shape[-2], shift=float(s.D.min())),
    ),
    "CG with D": lambda s, k: CG(rtol=RTOL, max_steps=k, preconditioner=Jacobi(diagonal=s.D)),
    "Cholesky": lambda s, k: Cholesky(rtol=RTOL),
    "Woodbury": lambda s, k: Woodbury(rtol=RTOL),
}


def solve(name: str, system: System, steps: int) -> Solution:
    """The library's own; see `Solvers`."""
    solver = SOLVERS[name](system, steps)
    if not system.ridge:
        return solver.solve(system.apply, system.b)
    l2 = float(system.D.flatten()[0])
    targets = torch.zeros(*system.X.shape[:-1], 1, dtype=system.X.dtype)
    head = torch.zeros(*system.X.shape[:-2], 1, system.X.shape[-1], dtype=system.X.dtype)
    lower = RidgeRegression(targets=targets, l2=l2)
    point = Hessian().linearise(lower, system.X, head, needed=[False])
    return solver.solve(point.hessian, system.b)


def drawn(rng: np.random.Generator, n: int, q: int, *, ridge: bool) -> System:
    """A system with X'X/n from 2 to 20 times the least of D, which is l2 or spread over a decade.

    For the ridge kappa is 21 where n < q and 7 for n = q.
    """
    tasks = int(rng.integers(1, 4))
    least = 10 ** rng.uniform(-1, 1)
    squares = instances.spectrum(rng, (tasks,), n, 20.0, 10.0) * least
    left = np.linalg.qr(rng.standard_normal((tasks, n, n)))[0]
    right = np.linalg.qr(rng.standard_normal((tasks, q, n)))[0]
    X = left @ (np.sqrt(n * squares)[..., None] * np.swapaxes(right, -1, -2))
    D = np.full((tasks, q), least)
    if not ridge:
        D = D * 10 ** rng.uniform(0, 1, (tasks, q))
    b = rng.standard_normal((tasks, q))
    return System(torch.tensor(X), torch.tensor(D), torch.tensor(b), ridge)


def _cases(seed: int) -> Iterator[tuple[System, dict[str, int]]]:
    """Systems, and how many steps each solver may take."""
    rng = np.random.default_rng([seed, 12])
    n = int(rng.integers(6, 11))
    q = n + int(rng.integers(6, 20))
    few = dict.fromkeys(("CG", "MINRES", "NormalCG"), n + 1 + EXTRA)
    direct = {"Cholesky": 0, "Woodbury": 0}
    yield drawn(rng, n, q, ridge=True), few | {"CG with Nystrom": 2 + EXTRA} | direct
    yield drawn(rng, n, q, ridge=False), {"CG with D": n + 1 + EXTRA, "Cholesky": 0}
    # No eigenvalue twice: |r| <= 2 sqrt(kappa) tau^N |b|, and MINRES's is no larger than CG's;
    # NormalCG's is at most 2 ((kappa - 1)/(kappa + 1))^N |b|. kappa = 21/3.
    system = drawn(rng, 30, 30, ridge=True)
    kappa = 7.0
    root = math.sqrt(kappa)
    cg = math.log(2 * root / RTOL) / math.log((root + 1) / (root - 1))
    normal = math.log(2 / RTOL) / math.log((kappa + 1) / (kappa - 1))
    steps = math.ceil(cg) + EXTRA
    yield system, {"CG": steps, "MINRES": steps, "NormalCG": math.ceil(normal) + EXTRA}


def _comparisons(solvers: Solvers, seed: int) -> Iterator[Evidence]:
    for system, counts in _cases(seed):
        X, D, b = (part.numpy() for part in (system.X, system.D, system.b))
        H = np.swapaxes(X, -1, -2) @ X / X.shape[-2] + D[..., None] * np.eye(D.shape[-1])
        exact = np.linalg.solve(H, b[..., None])[..., 0]
        spectrum = np.linalg.eigvalsh(H)
        mu, L = spectrum[..., 0], spectrum[..., -1]
        size = norm(exact)
        # both sides' own: 8 q u |H||x| in each product, LAPACK's backward error included
        rounding = 8 * X.shape[-1] * unit_roundoff() * L * size
        # 10 % more: the recomputed residual may exceed the recurrence's by that
        allowed = (1.1 * RTOL * norm(b) + rounding) / mu
        for name, steps in counts.items():
            found = solvers(name, system, steps)
            where = f"{name}, {steps} steps, X of shape {X.shape}"
            yield _per_task(norm(found.x.numpy() - exact), allowed, size, f"{where}: x")
            true = norm(b - (H @ found.x.numpy()[..., None])[..., 0])
            reported = found.residual.numpy() * norm(b)
            yield _per_task(
                np.abs(true - reported), rounding, true, f"{where}: residual it reports"
            )


def _per_task(error: np.ndarray, allowed: np.ndarray, size: np.ndarray, where: str) -> Evidence:
    task = int(np.argmax(np.where(np.isnan(error), np.inf, error / allowed)))
    return Evidence(
        claim="linear solvers",
        error=float(error[task]),
        tolerance=float(allowed[task]),
        scale=float(size[task]),
        where=where,
    )


def solved_in_few_steps(solvers: Solvers, seed: int) -> Evidence:
    """Solved in as many steps as eigenvalues differ, residual as reported; all solvers."""
    return worst(_comparisons(solvers, seed))


_BUGS = source_bugs(
    solve,
    "linear solvers",
    (
        (
            "L01",
            "Jacobi divides by the root of the diagonal",
            "linear.preconditioners",
            "return lambda vector: inverse * vector",
            "return lambda vector: inverse.sqrt() * vector",
        ),
        (
            "L02",
            "Nystrom's shift is not taken off the sketch",
            "linear.preconditioners",
            "torch.stack(columns, dim=-1) - self.shift * test",
            "torch.stack(columns, dim=-1)",
        ),
        (
            "L03",
            "Nystrom keeps the identity on the space it knows",
            "linear.preconditioners",
            "torch.where(known, values, 1.0) - 1, 0.0)",
            "torch.where(known, values, 1.0), 0.0)",
        ),
        (
            "L04",
            "MINRES forgets the rotation of two steps back",
            "linear.minres",
            "torch.addcmul(v, eps_old[..., None], w_old, value=-1)",
            "v.clone()",
        ),
        (
            "L05",
            "MINRES: Lanczos without the previous vector",
            "linear.minres",
            "u.addcmul_(beta[..., None], v_old, value=-1)",
            "",
        ),
        ("L06", "CGLS's beta inverted", "linear.normal_cg", "(rho / old)", "(old / rho)"),
        (
            "L07",
            "Woodbury: the Gram matrix is shifted by l2, not n l2",
            "objectives.ridge",
            "n * l2 * eye",
            "l2 * eye",
        ),
        (
            "L08",
            "the residual reported is the recurrence's",
            "linear.krylov",
            "torch.div(rhs, scale, out=run.residual).sub_(product.exact(run.x))",
            "run.residual",
        ),
        (
            "L09",
            "a solve ends at the precision of float32",
            "linear.krylov",
            "torch.finfo(rhs.dtype).eps",
            "torch.finfo(torch.float32).eps",
        ),
    ),
)
KIND = Kind(
    "linear solvers",
    solve,
    (
        *_BUGS,
        Bug(
            "L10",
            "the preconditioned residual is not what rho is made of",
            "linear solvers",
            in_source(
                solve,
                (
                    "linear.cg",
                    "            rho = dot(r, z)\n        beta",
                    "            rho = square\n        beta",
                ),
                (
                    "linear.cg_single",
                    "            rho = float(inner(r, z))",
                    "            rho = square",
                ),
            ),
        ),
    ),
)
