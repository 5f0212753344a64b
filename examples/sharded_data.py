"""A penalty for each feature of a logistic regression whose rows lie on several ranks.

    torchrun --nproc-per-node=2 examples/sharded_data.py

Each rank has some of the training rows and of the held-out rows. Weights and penalties are whole on
each, and so is every gradient: the ranks take the same steps. Printed: the held-out loss of all
rows, which does not depend on the number of ranks. Started by python alone, it is one rank.
"""

import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hypergrad import Implicit, Newton, argmin, strict
from hypergrad.distributed import Sharded, shared, total


def rows(rank: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """This rank's training and held-out rows, and the number of all held-out ones."""
    data = load_breast_cancer()
    x, y = torch.tensor(data.data), torch.tensor(data.target).double()
    x = (x - x.mean(0)) / x.std(0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:101], order[101:]
    mine, mine_out = train[rank::size], held_out[rank::size]
    return x[mine], y[mine], x[mine_out], y[mine_out], len(held_out)


def main(*, steps: int = 10) -> dict[str, float]:
    """Tune the penalties on all ranks of the group; returns the first and the last loss."""
    x, y, x_out, y_out, held_out = rows(dist.get_rank(), dist.get_world_size())

    def fit(theta: Tensor, phi: Tensor) -> Tensor:  # the mean over this rank's rows
        loss = binary_cross_entropy_with_logits(x @ phi, y)
        return loss + (theta.exp() * phi.square()).sum()

    lower = Sharded(fit, weight=len(x))  # the mean over all rows
    log_l2 = torch.full((x.shape[1],), -3.0, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([log_l2], lr=0.3)
    phi, losses = torch.zeros_like(log_l2), []
    for _ in range(steps):
        by = Newton(rtol=1e-12)
        phi = argmin(lower, log_l2, phi.detach(), by=by, adjoint=Implicit(), watch=strict)
        part = binary_cross_entropy_with_logits(x_out @ shared(phi), y_out, reduction="sum")
        loss = total(part) / held_out  # of all rows, on every rank
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    if dist.get_rank() == 0:
        print(f"held-out loss, {steps} steps: {losses[0]:.6f} to {losses[-1]:.6f}")
    return {"first": losses[0], "last": losses[-1]}


if __name__ == "__main__":
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    main()
    dist.destroy_process_group()
