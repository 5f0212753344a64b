"""What the ranks of the FSDP2 test do: a sharded backbone under a differentiable minimiser."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import hypergrad
from hypergrad import CG
from hypergrad.objectives import RidgeRegression
from metalearn.distributed import joined

T, S, C = 3, 6, 2


def backbone() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def data(rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(T, 2 * S, 5, generator=generator, dtype=torch.float64)
    return images, torch.randn(T, 2 * S, C, generator=generator, dtype=torch.float64)


def upper_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Mean error of ridge heads, each minimising over its task's support, on the queries."""
    support, query = features.split(S, dim=1)
    objective = RidgeRegression(targets[:, :S], 0.1)
    head = objective.minimiser(support.detach())
    head = hypergrad.attach(objective, support, head, solver=CG(rtol=1e-13))
    error: Tensor = query @ head.mT - targets[:, S:]
    return error.square().mean()


def fsdp(out: Path) -> None:
    """Each rank its own tasks; FSDP2's mean of their gradients, whole again, to a file."""
    with joined(torch.device("cpu")) as (world, _):
        mesh = init_device_mesh("cpu", (world.size,))
        model = backbone()
        for part in model:
            if isinstance(part, nn.Linear):
                fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        images, targets = data(world.rank)
        upper_loss(model(images), targets).backward()
        found = {}
        for name, weight in model.named_parameters():
            assert isinstance(weight.grad, DTensor)
            assert weight.grad.to_local().numel() < weight.numel()  # a part of it is here
            found[name] = weight.grad.full_tensor().contiguous()
        if world.leads:
            safetensors.torch.save_file(found, out)
        dist.barrier()
