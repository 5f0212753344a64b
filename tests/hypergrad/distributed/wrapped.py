"""Levels whose networks DDP or FSDP2 trains, against the same in one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from examples import sharded_data
from hypergrad import CG, Implicit, Newton, argmin, attach, strict
from hypergrad.distributed import Sharded, shared
from hypergrad.objectives import call, parameters
from tests.hypergrad.distributed.cases import COUNTS, PARTS, ROWS, Found, Here, data

NEWTON = Newton(max_steps=50)


def _whole(gradients: dict[str, Tensor | None]) -> Found:
    """Each gradient, of all ranks, as a plain tensor."""
    found = {}
    for name, gradient in gradients.items():
        assert gradient is not None
        found[name] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return found


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def _head(here: Here, model: nn.Module, inner: nn.Module) -> Found:
    """The features' ridge regression, on all ranks' rows, and each rank's mean loss at its own."""
    x, y = data()
    rows = ROWS if here.rank is None else (ROWS[here.rank],)

    def part(features: Tensor, phi: Tensor, targets: Tensor) -> Tensor:
        return (features @ phi - targets).square().mean() + 0.1 * phi.square().sum()

    features = [model(x[at]) for at in rows]
    if here.rank is None:

        def g(theta: list[Tensor], phi: Tensor) -> Tensor:
            each = zip(COUNTS, theta, ROWS, strict=True)
            return torch.stack([w * part(f, phi, y[at]) for w, f, at in each]).sum() / sum(COUNTS)
    else:

        def mine(theta: list[Tensor], phi: Tensor) -> Tensor:
            return part(theta[0], phi, y[rows[0]])

        g = Sharded(mine, weight=COUNTS[here.rank], own=True)
    start = torch.zeros(3).double()
    phi = argmin(g, features, start, by=NEWTON, adjoint=Implicit(CG(rtol=1e-13)), watch=strict)
    if here.rank is not None:
        phi = shared(phi)
    # DDP and FSDP2 take the mean of the ranks' gradients
    losses = [(f @ phi).pow(3).mean() + f.square().mean() for f in features]
    torch.stack(losses).mean().backward()
    return _whole({name: weight.grad for name, weight in inner.named_parameters()})


def ddp_above(here: Here) -> Found:
    """A DDP-wrapped backbone makes the features of a sharded lower level."""
    inner = _network()
    return _head(here, inner if here.rank is None else DistributedDataParallel(inner), inner)


def fsdp_above(here: Here) -> Found:
    """The same backbone, its weights in parts."""
    inner = _network()
    if here.rank is not None:
        fully_shard(inner, mesh=init_device_mesh("cpu", (PARTS,)))
    return _head(here, inner, inner)


def _loss(module: nn.Module, rows: slice) -> Any:
    x, y = data()

    def g(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        error = call(module, phi, x[rows])[:, 0] - y[rows]
        penalty = sum(leaf.square().sum() for leaf in phi.values())
        return error.square().mean() + theta.exp() * penalty

    return g


def _trained(here: Here, model: nn.Module) -> None:
    """Gradient descent in the user's own loop: to rounding, the error falls by 0.4 a step."""
    x, y = data()
    rows = ROWS if here.rank is None else (ROWS[here.rank],)
    weights = COUNTS if here.rank is None else (COUNTS[here.rank] * PARTS,)  # DDP takes a mean
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(150):
        optimiser.zero_grad()
        fits = [
            w * (model(x[mine])[:, 0] - y[mine]).square().mean()
            for w, mine in zip(weights, rows, strict=True)
        ]
        penalty = sum(weight.square().sum() for weight in model.parameters())
        (sum(fits) / sum(COUNTS) + penalty).backward()
        optimiser.step()


def ddp_below(here: Here) -> Found:
    """A lower level that DDP has trained, attached."""
    torch.manual_seed(0)
    inner = nn.Linear(4, 1).double()
    _trained(here, inner if here.rank is None else DistributedDataParallel(inner))
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    g = here.join([_loss(inner, rows) for rows in ROWS])
    phi = attach(g, theta, parameters(inner, tasks=()), solver=CG(rtol=1e-13), watch=strict)
    (phi["weight"].pow(3).sum() + phi["bias"].square().sum()).backward()
    return _whole({"theta": theta.grad} | {name: leaf.detach() for name, leaf in phi.items()})


def fsdp_below(here: Here) -> Found:
    """A lower level in parts, whole for the hypergradient; theta is a network in parts, too."""
    torch.manual_seed(0)
    trained, structure, teacher = (nn.Linear(4, 1).double() for _ in range(3))
    if here.rank is not None:
        mesh = init_device_mesh("cpu", (PARTS,))
        fully_shard(trained, mesh=mesh)
        fully_shard(teacher, mesh=mesh)
    x, _ = data()

    def part(rows: slice) -> Any:
        def g(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
            error = call(structure, phi, x[rows]) - call(structure, theta, x[rows])
            return error.square().mean() + 0.1 * phi["weight"].square().sum()

        return g

    def whole(module: nn.Module) -> dict[str, Tensor]:
        return {
            name: weight.full_tensor() if isinstance(weight, DTensor) else weight
            for name, weight in module.named_parameters()
        }

    g, theta = here.join([part(rows) for rows in ROWS]), whole(teacher)
    start = {name: leaf.detach() for name, leaf in whole(trained).items()}
    phi = argmin(g, theta, start, by=NEWTON, adjoint=Implicit(CG(rtol=1e-13)), watch=strict)
    (phi["weight"].pow(3).sum() + phi["bias"].square().sum()).backward()
    return _whole({name: weight.grad for name, weight in teacher.named_parameters()})


def example(here: Here) -> Found:
    """The script of the guide, on as many ranks as there are."""
    if here.rank is None:
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    try:
        losses = sharded_data.main(steps=4)
    finally:
        if here.rank is None:
            dist.destroy_process_group()
    assert losses["last"] < losses["first"]
    return {"losses": torch.tensor([losses["first"], losses["last"]], dtype=torch.float64)}


CASES = (example, ddp_above, fsdp_above, ddp_below, fsdp_below)
