"""A deep equilibrium layer without an energy: a module whose output is a fixed point.

The layer maps u to the z with ``z = u - B' sigmoid(A z + b)``, A and B scaled so that the map
contracts by 0.9. Every image, of scikit-learn's digits, is a task. The Jacobian is not symmetric;
with B = A, z would minimise an energy. Printed: the test accuracy and the largest residuals.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hypergrad import Certificate, Implicit, argmin
from hypergrad.conditions import FixedPoint
from hypergrad.solvers import GMRES, Anderson


def layer_map(theta: dict[str, Tensor], z: Tensor) -> Tensor:
    """T for each image: ``(images, size)`` to the same."""
    return torch.sub(theta["u"], torch.sigmoid(z @ theta["A"].T + theta["b"]) @ theta["B"])


def scaled(matrix: Tensor) -> Tensor:
    """At most 1.9 long: the sigmoid's slope is at most 1/4, and 1.9 * 1.9 / 4 = 0.9."""
    return torch.div(matrix, (torch.linalg.matrix_norm(matrix, 2) / 1.9).clamp(min=1.0))


class Equilibrium(nn.Module):
    """The layer, ``(images, size)`` to the same; keeps the certificate of every backward pass."""

    def __init__(self, size: int, units: int, *, energy: bool) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(units, size) / size**0.5)
        self.B = self.A if energy else nn.Parameter(self.A.detach().clone())
        self.b, self.seen = nn.Parameter(torch.zeros(units)), list[Certificate]()

    def forward(self, u: Tensor) -> Tensor:
        """The fixed point of each u."""
        theta = {"u": u, "A": scaled(self.A), "B": scaled(self.B), "b": self.b}
        condition, start = FixedPoint(layer_map, tasks=1), torch.zeros_like(u)
        by, adjoint, watch = Anderson(rtol=1e-5), Implicit(GMRES(rtol=1e-5)), self.seen.append
        return argmin(condition, theta, start, by=by, adjoint=adjoint, watch=watch)


def main(out: Path, *, steps: int = 72, seed: int = 0, energy: bool = False) -> dict[str, float]:
    """Train on 1200 digits, test on 597; returns the accuracy and the residuals."""
    torch.manual_seed(seed)
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(digits)[order]
    layer = Equilibrium(32, 64, energy=energy)
    network = nn.Sequential(nn.Linear(64, 32), layer, nn.Linear(32, 10))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        batch = torch.randint(1200, (100,))
        loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    accuracy = (network(x[1200:]).argmax(dim=1) == y[1200:]).double().mean().item()
    residual = [c.stationarity.max().item() for c in layer.seen]
    adjoint = [c.adjoint.residual.max().item() for c in layer.seen]
    axes = (figure := Figure(layout="constrained")).subplots()
    axes.semilogy(residual, label="|z - T(z)|, worst image")
    axes.semilogy(adjoint, label="relative adjoint residual, worst image")
    axes.set(xlabel="Adam step", ylabel="no unit", title=f"test accuracy {accuracy:.1%}")
    axes.legend()
    figure.savefig(out)
    return {"accuracy": accuracy, "fixed point": max(residual), "adjoint": max(adjoint)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("equilibrium_layer.png"))
    for name, value in main(parser.parse_args().out).items():
        print(f"{name:>12}: {value:.3g}")
