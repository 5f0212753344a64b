"""Products of a certified loop and of fixed tolerances, over the same upper steps.

    python -m benchmarks.certified --out benchmarks/results/certified.json

Softmax regression with one L2 strength for each feature, upper steps of gradient descent, both
levels warm. A fixed tolerance is that of L-BFGS and of conjugate gradients alike. The certified
loop continues both until Theorem B bounds the error by a share of the hypergradient. Products are
gradients of the lower objective and Hessian products. The exact hypergradient, by dense algebra,
says how far each loop was off; nobody counts it.

The last loops say what any planner of tolerances could save at most: they know the error, choose
the loosest tolerance that keeps it in each step, and count no product of a tolerance that didn't.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from benchmarks.peer_cases import Softmax
from benchmarks.provenance import provenance, write
from hypergrad import CG, LBFGS, Bilevel, Hypergradient, Solution, hypergradient
from hypergrad.theory import Constants, Estimated, solve_adaptively

RATE: Final = 5.0  # of the upper steps
TOLERANCES: Final = (1e-2, 1e-3, 1e-4, 1e-6)
CHOSEN: Final = tuple(10 ** -(1 + n / 4) for n in range(24))
"""Tolerances of a planner that knows the error, and keeps those of `TOLERANCES`."""
SHARES: Final = (0.5, 0.1)
ROUND: Final = 20  # steps of each loop in a round of the certified one
# The third derivative of a logarithm of a sum of exponentials along unit directions of the scores:
# a third central moment of scores that differ by at most sqrt(2), sqrt(2)^3 / (6 sqrt(3)).
_SKEW: Final = 2**1.5 / (6 * 3**0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Counts and errors of a loop of upper steps.

    Attributes:
        products: gradients of the lower objective and Hessian products.
        error: the largest error of a hypergradient, relative to the exact one.
        bound: the largest bound on that error over the error itself.
    """

    products: int
    error: float
    bound: float


def constants(problem: Softmax, theta: Tensor, phi: Tensor) -> Constants:
    """Constants in closed form: H is ``mean x x' (x) C + diag(w)`` with ``|C| <= 1/2``.

    All hold everywhere but the coupling, which is that at phi.
    """
    weights = theta.exp()
    inside, held = (_largest(x) for x in (problem.x, problem.x_held))
    longest = float(problem.x.norm(dim=1).max())
    known = {
        "strong_convexity": float(weights.min()),
        "smoothness": inside / 2 + float(weights.max()),
        "coupling": float((weights * phi.norm(dim=0)).max()),  # J is diagonal in the features
        "upper_coupling": 0.0,
        "upper_smoothness": held / 2,
        "hessian_lipschitz": _SKEW * longest * inside,
        "coupling_lipschitz": float(weights.max()),
    }
    values = {name: Estimated(torch.tensor(value).double()) for name, value in known.items()}
    return Constants(**values)


def _largest(x: Tensor) -> float:
    return float(torch.linalg.eigvalsh(x.mT @ x / len(x))[-1])


class _Counted:
    """A problem whose products are counted, and CG that counts its own."""

    def __init__(self, problem: Softmax) -> None:
        self.products = 0
        self._lower = problem.lower
        self.bilevel: Bilevel[Tensor, Tensor] = Bilevel(upper=problem.upper, lower=self._counting)

    def _counting(self, theta: Tensor, phi: Tensor) -> Tensor:
        self.products += 1
        return self._lower(theta, phi)

    def solved(
        self, theta: Tensor, phi: Tensor, v: Tensor | None, tolerance: float
    ) -> tuple[Tensor, Hypergradient[Tensor]]:
        """Both levels from where they are to a tolerance."""
        by = LBFGS(rtol=0.0, atol=tolerance, max_steps=1000)
        phi = by.minimise(self.bilevel.lower, theta, phi).phi
        answer = hypergradient(self.bilevel, theta, phi, solver=CG(rtol=tolerance), start=v)
        self.products += answer.certificate.adjoint.matvecs
        return phi, answer

    def solve(
        self, apply: Callable[[Tensor], Tensor], rhs: Tensor, start: Tensor | None = None
    ) -> Solution:
        """One round of the certified loop."""
        found = CG(rtol=0.0, max_steps=ROUND).solve(apply, rhs, start)
        self.products += found.matvecs
        return found


def loop(
    problem: Softmax,
    theta: Tensor,
    *,
    steps: int,
    tolerance: float | None = None,
    share: float | None = None,
) -> Loop:
    """Upper steps with a fixed tolerance, or with a certified share of error."""
    counted = _Counted(problem)
    phi = torch.zeros(problem.classes, len(theta), dtype=theta.dtype)
    v: Tensor | None = None
    error = looseness = 0.0
    for _ in range(steps):
        answer: Hypergradient[Tensor]
        if tolerance is not None:
            phi, answer = counted.solved(theta, phi, v, tolerance)
        else:
            assert share is not None
            certified = solve_adaptively(
                counted.bilevel,
                theta,
                phi,
                constants=constants(problem, theta, phi),
                nu=share,
                by=LBFGS(rtol=0.0, atol=1e-14, max_steps=ROUND),
                solver=counted,
                start=v,
            )
            answer, phi = certified.hypergradient, certified.phi
        v = answer.certificate.adjoint.x.view_as(phi)
        exact = _exact(problem, theta)
        distance = float((answer.grad - exact).norm())
        error = max(error, distance / float(exact.norm()))
        bound = answer.certificate.bound(constants(problem, theta, phi))
        looseness = max(looseness, float(bound.value) / distance)
        theta = theta - RATE * answer.grad
    return Loop(products=counted.products, error=error, bound=looseness)


def foreseen(problem: Softmax, theta: Tensor, *, steps: int, error: float) -> Loop:
    """Upper steps at the loosest tolerance whose hypergradient is off by at most this share."""
    products, worst, looseness = 0, 0.0, 0.0
    phi = torch.zeros(problem.classes, len(theta), dtype=theta.dtype)
    v: Tensor | None = None
    for _ in range(steps):
        exact = _exact(problem, theta)
        for tolerance in CHOSEN:
            counted = _Counted(problem)
            found, answer = counted.solved(theta, phi, v, tolerance)
            distance = float((answer.grad - exact).norm())
            if distance <= error * float(exact.norm()):
                break
        else:
            raise RuntimeError(f"no tolerance of {CHOSEN} keeps an error of {error}")
        phi, v = found, answer.certificate.adjoint.x.view_as(found)
        products += counted.products
        worst = max(worst, distance / float(exact.norm()))
        bound = answer.certificate.bound(constants(problem, theta, phi))
        looseness = max(looseness, float(bound.value) / distance)
        theta = theta - RATE * answer.grad
    return Loop(products=products, error=worst, bound=looseness)


def _exact(problem: Softmax, theta: Tensor) -> Tensor:
    phi = problem.minimiser(theta)
    cotangent = problem.upper_gradient(phi).reshape(-1)
    return problem.pull(theta, phi, problem.inverse_at(theta, phi)(cotangent))


def compared(examples: int, size: int, classes: int, *, steps: int) -> dict[str, Loop]:
    """Loops by name, from the same start."""
    problem, theta = Softmax.drawn(examples, size, classes)
    fixed = {
        f"tolerance {tolerance:.0e}": loop(problem, theta, steps=steps, tolerance=tolerance)
        for tolerance in TOLERANCES
    }
    certified = {
        f"certified to {share}": loop(problem, theta, steps=steps, share=share) for share in SHARES
    }
    known = {
        f"foreseen, as exact as {name}": foreseen(problem, theta, steps=steps, error=one.error)
        for name, one in fixed.items()
    }
    return fixed | certified | known


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--steps", type=int, default=50, help="upper steps")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    origin = provenance()
    found = compared(300, 60, 10, steps=asked.steps)
    loops = {
        name: {"products": one.products, "error": one.error, "bound": one.bound}
        for name, one in found.items()
    }
    write(asked.out, {"provenance": origin, "steps": asked.steps, "loops": loops})
    for name, one in found.items():
        print(f"{name}: {one.products} products, error {one.error:.1e}, bound {one.bound:.0e}")


if __name__ == "__main__":
    main()
