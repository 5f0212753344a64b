"""Constrained and composite problems with their solutions, for every set and penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.conditions import (
    L1,
    Affine,
    Box,
    Composite,
    Constrained,
    ElasticNet,
    GroupL2,
    L2Ball,
    NonNegative,
    NuclearNorm,
    Simplex,
)
from hypergrad.solvers import ProximalGradient

# T tasks, N = 6 entries of phi
N = 6
SOLVE = ProximalGradient(rtol=1e-13)


@dataclass(frozen=True)
class Least:
    """``|X phi - y - theta|^2/2`` and a quartic, theta ``(*batch, N)`` or shared."""

    X: Tensor
    y: Tensor

    @classmethod
    def drawn(cls, batch: tuple[int, ...], seed: int = 0) -> Least:
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        return cls(normal(*batch, N, N) / 3 + torch.eye(N), 0.5 * normal(*batch, N))

    def __call__(self, theta: Tensor, phi: Tensor) -> Tensor:
        residual = (self.X @ phi[..., None])[..., 0] - self.y - theta
        # a quartic, so that third derivatives are not zero
        return residual.square().sum(-1) / 2 + phi.pow(4).sum(-1) / 24


def _grouped(g: Any) -> Any:
    return lambda theta, phi: g(theta, phi.flatten(-2))


def _square(t: Tensor) -> Tensor:
    return t.square().sum(-1, keepdim=True)


ROWS = torch.tensor([[1.0, 1, 1, 1, 1, 1], [1, -1, 2, 0, 1, -2]], dtype=torch.float64)


# theta enters g everywhere, and the bounds, strengths and equations where a name says so
CONDITIONS: dict[str, Any] = {
    "non-negative": lambda g: Constrained(g, NonNegative()),
    "box": lambda g: Constrained(g, Box(-0.4, 0.4)),
    "box of theta": lambda g: Constrained(
        g, Box(lambda t: -0.3 - t.square() / 5, lambda t: 0.2 + t.square() / 3)
    ),
    "simplex": lambda g: Constrained(g, Simplex()),
    "simplex of theta": lambda g: Constrained(g, Simplex(lambda t: 1 + _square(t) / 9)),
    "ball": lambda g: Constrained(g, L2Ball(0.3)),
    "ball of theta": lambda g: Constrained(g, L2Ball(lambda t: 0.2 + _square(t) / 9)),
    "affine": lambda g: Constrained(g, Affine(ROWS, torch.ones(2, dtype=torch.float64))),
    "affine of theta": lambda g: Constrained(
        g, Affine(lambda t: ROWS + t[..., None, :], lambda t: t[..., :2])
    ),
    "l1": lambda g: Composite(g, L1(0.3)),
    "l1 of theta": lambda g: Composite(g, L1(lambda t: t.square() + 0.2)),
    "elastic net": lambda g: Composite(g, ElasticNet(lambda t: t.square() + 0.2, 0.1)),
    "groups": lambda g: Composite(_grouped(g), GroupL2(0.8)),
    "groups of theta": lambda g: Composite(
        _grouped(g), GroupL2(lambda t: 0.7 + t[..., :3, None] ** 2)
    ),
    "rank": lambda g: Composite(_grouped(g), NuclearNorm(0.8)),
    "rank of theta": lambda g: Composite(
        _grouped(g), NuclearNorm(lambda t: 0.7 + t[..., :1, None] ** 2)
    ),
}


def theta() -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return 0.5 * torch.randn(N, generator=draw, dtype=torch.float64)


def start(name: str, batch: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    shape = (3, 2) if name.startswith(("groups", "rank")) else (N,)
    return torch.zeros(*batch, *shape, dtype=dtype)


def condition(name: str, batch: tuple[int, ...]) -> Any:
    return CONDITIONS[name](Least.drawn(batch))
