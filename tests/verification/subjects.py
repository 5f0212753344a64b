"""The library's ways to a hypergradient, as subjects that are handed the minimiser as phi0."""

import math

import numpy as np
import torch

from hypergrad import (
    CG,
    Cholesky,
    GradientDescent,
    Unrolled,
    argmin,
    attach,
    hypergradient,
    strict,
)
from verification.claims.exact_solves import TensorBilevel
from verification.oracles.rounding import unit_roundoff
from verification.problems import Family


def functional(problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor) -> torch.Tensor:
    """`hypergradient` with a dense factorisation."""
    return hypergradient(problem, theta, phi0, solver=Cholesky()).grad


def krylov(problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor) -> torch.Tensor:
    """`hypergradient` with CG to round-off: many more steps than unknowns, for kappa to 1e6."""
    solver = CG(rtol=0.0, max_steps=100 * phi0.shape[-1])
    return hypergradient(problem, theta, phi0, solver=solver).grad


def attached(problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor) -> torch.Tensor:
    """`attach`, then autograd's backward."""
    theta = theta.clone().requires_grad_()
    phi = attach(problem.lower, theta, phi0, solver=Cholesky(), watch=strict)
    problem.upper(theta, phi).mean().backward()
    assert theta.grad is not None
    return theta.grad


class LongUnrolled:
    """Iterative differentiation, run until rounding is all that is left.

    The derivative of K steps is K q^K away from the limit, q = (kappa - 1)/(kappa + 1) at the step
    size 2/(mu + L); K is taken so that K q^K kappa^2 < u.
    """

    def __init__(self, family: Family, theta: np.ndarray) -> None:
        k = family.constants(theta)
        mu, L = float(k.strong_convexity.min()), float(k.smoothness.max())
        self.step_size = 2 / (mu + L)
        kappa = L / mu
        # where kappa - 1 is rounding two steps leave (1e-9/2)^2
        rate = -math.log1p(-2 / (kappa + 1)) if kappa > 1 + 1e-9 else math.inf
        goal = -math.log(unit_roundoff()) + 2 * math.log(kappa)
        self.steps = 1 if math.isinf(rate) else math.ceil(goal / rate)
        if not math.isinf(rate):
            self.steps = math.ceil((goal + math.log(self.steps)) / rate)

    def __call__(
        self, problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor
    ) -> torch.Tensor:
        theta = theta.clone().requires_grad_()
        descent = GradientDescent(max_steps=max(self.steps, 2), step_size=self.step_size)
        phi = argmin(problem.lower, theta, phi0, by=descent, adjoint=Unrolled())
        problem.upper(theta, phi).mean().backward()
        assert theta.grad is not None
        return theta.grad
