"""Problems as a user might bring them: functions for ``module:function``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hypergrad import Bilevel
from verification.problems import drawn as instances

Problem = tuple[Bilevel[Any, Any], Tensor, Tensor]


def healthy() -> Problem:
    found = instances.quad(seed=0, batch=(), p=3, q=4, condition=20.0)
    theta, phi0, _ = found.tensors()
    return found.family.bilevel(), theta, phi0


def round() -> Problem:
    """Tasks whose Hessian is the identity, off the axes."""
    random = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn: Tensor = torch.linalg.qr(random).Q

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (turn @ phi - theta).square().sum(-1) / 2

    theta = torch.ones(3, dtype=torch.float64)
    return Bilevel(upper=lambda theta, phi: phi.square().sum(-1), lower=lower), theta, 0 * theta


def nonconvex() -> Problem:
    """g = sum phi^4/4 - phi^2/2 - theta phi: curvature -1 at phi0 = 0."""

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi**4 / 4 - phi**2 / 2 - theta * phi).sum(-1)

    theta = torch.full((3,), 0.1, dtype=torch.float64)
    return Bilevel(upper=distance, lower=lower), theta, torch.zeros(3, dtype=torch.float64)


def singular() -> Problem:
    """Least squares of 2 equations in 5 unknowns, with l2 = 0."""
    design = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi @ design.mT - theta).square().sum(-1) / 2

    theta = torch.ones(2, dtype=torch.float64)
    return Bilevel(upper=distance, lower=lower), theta, torch.zeros(5, dtype=torch.float64)


def unbounded() -> Problem:
    """Theta climbs by one in each upper step, and L = cosh(theta) with it."""

    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        return phi.square().sum(-1) - theta.sum(-1)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return theta.cosh().sum(-1) * phi.square().sum(-1) / 2 - phi.sum(-1)

    zero = torch.zeros(1, dtype=torch.float64)
    return Bilevel(upper=upper, lower=lower), zero, torch.zeros(3, dtype=torch.float64)


def overflowing() -> Problem:
    """The same until exp(exp(theta)) is infinite."""

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return theta.exp().exp().sum(-1) * (phi - theta).square().sum(-1) / 2

    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        return -phi.sum(-1)

    zero = torch.zeros(1, dtype=torch.float64)
    return Bilevel(upper=upper, lower=lower), zero, torch.zeros(1, dtype=torch.float64)


def captured() -> Problem:
    """An l2 that the derivative would silently miss."""
    l2 = torch.ones((), dtype=torch.float64, requires_grad=True)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - theta).square().sum(-1) + l2 * phi.square().sum(-1)

    one = torch.ones(2, dtype=torch.float64)
    return Bilevel(upper=distance, lower=lower), one, torch.zeros(2, dtype=torch.float64)


def two_things() -> Any:
    return healthy()[:2]


def broken() -> Problem:
    raise KeyError("no data")


def distance(theta: Tensor, phi: Tensor) -> Tensor:
    return (phi - 1).square().sum(-1)
