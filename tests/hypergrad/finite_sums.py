"""A ridge regression in batches, with held-out data: its minimiser and hypergradient are known."""

from __future__ import annotations

import torch
from torch import Tensor

from hypergrad import Bilevel, Cholesky, hypergradient
from hypergrad.stochastic import Minibatched

M, Q = 11, 4  # examples, unknowns; blocks of 3 leave a short last one


def ridge(theta: Tensor, phi: Tensor, examples: tuple[Tensor, Tensor]) -> Tensor:
    """Least squares on these examples, and one penalty for each weight."""
    x, y = examples
    value: Tensor = (x @ phi - y).square().mean() + (theta.exp() * phi.square()).sum()
    return value / 2


def held_out(theta: Tensor, phi: Tensor, examples: tuple[Tensor, Tensor]) -> Tensor:
    """Least squares on other examples, and a pull on theta, which makes theta* finite."""
    x, y = examples
    value: Tensor = (x @ phi - y).square().mean() / 2 + theta.square().sum() / 4
    return value


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Examples of a linear model with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(M, Q, generator=generator, dtype=torch.float64)
    noise = torch.randn(M, generator=generator, dtype=torch.float64)
    return x, x.sum(dim=-1) + noise / 2


def problem(size: int = 3) -> Bilevel[Tensor, Tensor]:
    """A ridge regression with held-out data."""
    return Bilevel(
        upper=Minibatched(loss=held_out, data=drawn(1), size=size, seed=1),
        lower=Minibatched(loss=ridge, data=drawn(0), size=size),
    )


THETA, PHI = torch.zeros(Q, dtype=torch.float64), torch.zeros(Q, dtype=torch.float64)


def minimiser(theta: Tensor) -> Tensor:
    """The lower minimiser by its normal equations."""
    x, y = drawn(0)
    phi: Tensor = torch.linalg.solve(x.T @ x / M + torch.diag(theta.exp()), x.T @ y / M)
    return phi


def true_slope(theta: Tensor) -> Tensor:
    """The exact hypergradient, on all data."""
    full = problem(M)
    return hypergradient(full, theta, minimiser(theta), solver=Cholesky()).grad
