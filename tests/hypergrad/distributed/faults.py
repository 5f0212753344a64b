"""What goes wrong on one of two ranks; each case ends in an error on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from hypergrad import CG, GradientDescent, Implicit, Unrolled, argmin, attach
from hypergrad.distributed import Sharded, operators, total
from tests.hypergrad.distributed.cases import NEWTON, PARTS, THETA, D, Found, Here, logistic, upper

ZERO = torch.zeros(D, dtype=torch.float64)


def _backward(here: Here, theta: Tensor = THETA, weight: float = 1.0, **options: Any) -> Found:
    theta = theta.clone().requires_grad_()
    phi = argmin(here.join(logistic()), theta, ZERO, **options)
    (weight * upper(phi, theta)).backward()
    return {}


def _own(here: Here) -> float:
    return 1.0 + (here.rank or 0)


def another_phi(here: Here) -> Found:
    attach(here.join(logistic()), THETA.clone().requires_grad_(), ZERO + 1e-16 * (_own(here) - 1))
    return {}


def another_theta(here: Here) -> Found:
    return _backward(here, THETA * _own(here), by=NEWTON, adjoint=Implicit())


def another_loss(here: Here) -> Found:
    theta = THETA.clone().requires_grad_()
    (upper(attach(here.join(logistic()), theta, ZERO), theta) * _own(here)).backward()
    return {}


def loss_on_one_rank(here: Here) -> Found:
    theta = THETA.clone().requires_grad_()
    (upper(attach(here.join(logistic()), theta, ZERO), theta) * (_own(here) - 1)).backward()
    return {}


def another_loss_of_argmin(here: Here) -> Found:
    return _backward(here, weight=_own(here), by=NEWTON, adjoint=Implicit())


def another_loss_unrolled(here: Here) -> Found:
    by = GradientDescent(max_steps=3, step_size=0.5)
    return _backward(here, weight=_own(here), by=by, adjoint=Unrolled())


def another_loss_of_a_total(here: Here) -> Found:
    leaf = torch.ones(2, requires_grad=True)
    (total(leaf).sum() * _own(here)).backward()
    return {}


def part_raises(here: Here) -> Found:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        if here.rank == 1:
            raise ZeroDivisionError("of rank 1")
        return (phi - theta).square().sum()

    try:
        attach(Sharded(lower), THETA.clone().requires_grad_(), ZERO)
    except ZeroDivisionError as error:
        return {str(error): ZERO}
    return {}


def other_tasks(here: Here) -> Found:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        each = (phi - theta).square().sum(-1)
        return each if here.rank == 1 else each.sum()

    attach(Sharded(lower), THETA.clone().requires_grad_(), ZERO.expand(3, D))
    return {}


def other_shapes(here: Here) -> Found:
    phi = ZERO if here.rank else ZERO[:2]

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return theta * phi.square().sum()

    attach(Sharded(lower), THETA[0].clone().requires_grad_(), phi)
    return {}


def captured_on_one_rank(here: Here) -> Found:
    caught = torch.ones((), dtype=torch.float64, requires_grad=here.rank == 1)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return caught * (phi - theta).square().sum()

    attach(Sharded(lower), THETA.clone().requires_grad_(), ZERO)
    return {}


def no_sum(here: Here) -> Found:
    """A planted bug: backward of ``shared`` forgets its sum."""

    def forgets(group: Any, own: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(own)

    theta = THETA.clone().requires_grad_()
    with mock.patch.object(operators, "total_node", forgets):
        upper(attach(here.join(logistic()), theta, ZERO, solver=CG()), theta).backward()
    return {}


def no_sum_in_products(here: Here) -> Found:
    """A planted bug: it forgets the sum in products with H alone."""
    honest = operators.total_node

    def forgets(group: Any, own: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return honest(group, own) if torch.is_grad_enabled() else tuple(own)

    theta = THETA.clone().requires_grad_()
    with mock.patch.object(operators, "total_node", forgets):
        upper(attach(here.join(logistic()), theta, ZERO, solver=CG()), theta).backward()
    return {}


def sharded_tensors(here: Here) -> Found:
    weights = nn.Parameter(distribute_tensor(ZERO, init_device_mesh("cpu", (PARTS,)), [Shard(0)]))
    attach(here.join(logistic()), THETA.clone().requires_grad_(), weights)
    return {}


def messages(here: Here) -> Found:
    """How many messages, and numbers in them, an evaluation, a gradient and a product take."""
    sent: list[int] = []
    honest = dist.all_reduce

    def counted(tensor: Tensor, *more: Any, **options: Any) -> Any:
        sent.append(tensor.numel())
        return honest(tensor, *more, **options)

    def taken() -> Tensor:
        found = torch.tensor(sent)
        sent.clear()
        return found

    g, phi = here.join(logistic()), ZERO.clone().requires_grad_()
    with mock.patch.object(dist, "all_reduce", counted):
        values = g(THETA, phi)
        found = {"evaluation": taken()}
        (slope,) = torch.autograd.grad(values, phi, create_graph=True)
        found["gradient"] = taken()
        torch.autograd.grad(slope, phi, torch.ones_like(phi))
        found["product"] = taken()
    return found


CASES = (
    another_phi,
    another_theta,
    another_loss,
    loss_on_one_rank,
    another_loss_of_argmin,
    another_loss_unrolled,
    another_loss_of_a_total,
    part_raises,
    other_tasks,
    other_shapes,
    captured_on_one_rank,
    no_sum,
    no_sum_in_products,
    sharded_tensors,
    messages,
)
