"""A deep equilibrium layer: a module whose output is the stationary point of an energy.

Data: scikit-learn's 8x8 digits. The layer maps u to the z at which, with theta = (u, A, b),
    E(theta, z) = 1/2 |z|^2 - u'z + sum_i softplus(A z + b)_i
is least, the fixed point of ``z = u - A' sigmoid(A z + b)``, unique since E is 1-strongly convex
for every A. So g = E, phi = z, every image is a task, and f is the loss of the classifier above.
Printed: the test accuracy, and the largest of each of the certificates' two residuals.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from hypergrad import CG, LBFGS, Certificate, Implicit, argmin


def energy(theta: dict[str, Tensor], z: Tensor) -> Tensor:
    """E for each image: ``(images,)``."""
    units = softplus(z @ theta["A"].T + theta["b"]).sum(dim=-1)
    return (z.square() / 2 - theta["u"] * z).sum(dim=-1) + units


class Equilibrium(nn.Module):
    """The layer; keeps the certificate of every backward pass."""

    def __init__(self, size: int, units: int) -> None:
        super().__init__()
        self.A = nn.Parameter(2 * torch.randn(units, size) / size**0.5)
        self.b = nn.Parameter(torch.zeros(units))
        self.seen: list[Certificate] = []

    def forward(self, u: Tensor) -> Tensor:
        """``(images, size)`` to the same."""
        theta, start = {"u": u, "A": self.A, "b": self.b}, torch.zeros_like(u)
        by, adjoint, watch = LBFGS(rtol=1e-5), Implicit(CG(rtol=1e-5)), self.seen.append
        return argmin(energy, theta, start, by=by, adjoint=adjoint, watch=watch)


def main(out: Path, *, steps: int = 72, seed: int = 0) -> dict[str, float]:
    """Train on 1200 digits, test on 597; returns the accuracy and the residuals."""
    torch.manual_seed(seed)
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(digits)[order]
    network = nn.Sequential(nn.Linear(64, 32), layer := Equilibrium(32, 64), nn.Linear(32, 10))
    optimiser, losses = torch.optim.Adam(network.parameters(), lr=1e-2), []
    for _ in range(steps):
        batch = torch.randint(1200, (100,))
        loss = cross_entropy(network(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    accuracy = (network(x[1200:]).argmax(dim=1) == y[1200:]).double().mean().item()
    stationarity = [c.stationarity.max().item() for c in layer.seen]
    residual = [c.adjoint.residual.max().item() for c in layer.seen]
    figure = Figure(figsize=(9, 4), layout="constrained")
    (left, right) = figure.subplots(1, 2)
    left.plot(losses, label="training batch")
    left.set(xlabel="Adam step", ylabel="loss (nats)", title=f"test accuracy {accuracy:.1%}")
    right.semilogy(stationarity, "C1", label="|dE/dz|, worst image")
    right.semilogy(residual, "C2", label="relative adjoint residual, worst image")
    right.set(xlabel="Adam step", ylabel="residual (no unit)", title="certificates")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(out)
    return {"accuracy": accuracy, "stationarity": max(stationarity), "residual": max(residual)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("equilibrium_layer.png"))
    for name, value in main(parser.parse_args().out).items():
        print(f"{name:>12}: {value:.3g}")
