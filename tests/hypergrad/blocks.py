"""A ridge regression in blocks, and the single-loop methods with steps that suit it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hypergrad import Bilevel, Cholesky, hypergradient
from hypergrad.stochastic import F2SA, SABA, SOBA, AmIGO, Minibatched, StocBiO, growing

M, Q = 11, 4  # examples, unknowns; blocks of 3 leave a short last one
METHODS: list[Any] = [
    SOBA(step_size=0.05, upper_step_size=0.1),
    SABA(step_size=0.05, upper_step_size=0.1),  # below 1 / 3L of each block, as SAGA's are
    StocBiO(step_size=0.1, adjoint_step_size=0.1, upper_step_size=0.2, lower_steps=2, terms=20),
    AmIGO(
        step_size=0.1, adjoint_step_size=0.1, upper_step_size=0.2, lower_steps=2, adjoint_steps=2
    ),
    F2SA(step_size=0.1, upper_step_size=0.2, weight=growing(1.0, 1.0), lower_steps=2),
]


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
