"""A network's hypergradient against its training: bytes in vectors of the weights' size.

    python -m benchmarks.vectors --out benchmarks/results/vectors.json

A network of a million weights with an L2 penalty learns for 60 steps of AdamW. Then one
hypergradient is taken through its weights by ``attach``, the upper variable being a weight for each
example. Bytes are the most of tensors alive at a time, weights included and data not, over the
weights' own. What is alive as a product with the Hessian begins is counted apart: the rest is the
product's own.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.provenance import SEED, provenance, write
from hypergrad import CG, LinearMap, Solution, attach
from hypergrad.implicit.curvature import Hessian
from hypergrad.objectives import call
from metalearn.memory import LiveBytes

OUT: Final = Path(__file__).parent / "results" / "vectors.json"
WIDTHS: Final = (784, 1000, 200, 10)
STEPS: Final = 60
EXAMPLES: Final = 128
STRENGTH: Final = 0.05
Phi = dict[str, Tensor]
Record = dict[str, Any]


@dataclass(frozen=True)
class Watched:
    """Conjugate gradients, and what is alive as each of their products begins."""

    live: LiveBytes
    seen: list[int] = field(default_factory=list)

    def solve(self, apply: LinearMap, rhs: Tensor, start: Tensor | None = None) -> Solution:
        """See :class:`hypergrad.LinearSolver`."""

        def product(vector: Tensor) -> Tensor:
            self.seen.append(self.live.now)
            return apply(vector)

        return CG(rtol=0.0, max_steps=20).solve(product, rhs, start)


@dataclass(frozen=True)
class Network:
    """A network, its data, and the objectives of its weights."""

    model: nn.Sequential
    inputs: Tensor
    labels: Tensor

    @classmethod
    def drawn(cls, widths: tuple[int, ...]) -> Network:
        """Noise for pictures and labels."""
        torch.manual_seed(SEED)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        return cls(model, torch.randn(EXAMPLES, widths[0]), torch.randint(widths[-1], (EXAMPLES,)))

    def lower(self, theta: Tensor, phi: Phi) -> Tensor:
        """The weighted loss and an L2 penalty."""
        each = cross_entropy(call(self.model, phi, self.inputs), self.labels, reduction="none")
        penalty = torch.stack([leaf.square().sum() for leaf in phi.values()]).sum()
        return (2 * theta.sigmoid() * each).mean() + STRENGTH * penalty

    def train(self) -> None:
        """Steps of AdamW."""
        optimiser = torch.optim.AdamW(self.model.parameters())
        theta = torch.zeros(EXAMPLES)
        for _ in range(STEPS):
            optimiser.zero_grad()
            self.lower(theta, dict(self.model.named_parameters())).backward()
            optimiser.step()
        optimiser.zero_grad()

    def hypergradient(self, curvature: Hessian) -> tuple[int, int]:
        """The most bytes alive, and the most as a product begins."""
        phi = {name: leaf.detach() for name, leaf in self.model.named_parameters()}
        theta = torch.zeros(EXAMPLES, requires_grad=True)
        with LiveBytes() as live:
            solver = Watched(live)
            found = attach(
                self.lower, theta, phi, solver=solver, curvature=curvature, watch=_unread
            )
            loss = cross_entropy(call(self.model, found, self.inputs), self.labels)
            torch.autograd.grad(loss, theta)
        return live.peak, max(solver.seen)


def _unread(certificate: object) -> None:
    pass


def measured(widths: tuple[int, ...] = WIDTHS) -> Record:
    """Vectors of training, of the first hypergradient, and of a later one."""
    network = Network.drawn(widths)
    size = sum(4 * leaf.numel() for leaf in network.model.parameters())
    with LiveBytes() as live:
        network.train()
    training = live.peak / size + 1  # the weights were there before
    first, _ = network.hypergradient(Hessian(probe="always"))
    later, begun = network.hypergradient(Hessian(probe="never"))
    return {
        "weights": size // 4,
        "training": training,
        "first": first / size + 1,
        "later": later / size + 1,
        "as_a_product_begins": begun / size + 1,
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where the result file goes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    origin = provenance()
    found: Record = {"provenance": origin} | measured()
    write(asked.out, found)
    for name in ("training", "first", "later", "as_a_product_begins"):
        share = found[name] / found["training"]
        print(f"{name}: {found[name]:.1f} vectors, {share:.2f} of training")


if __name__ == "__main__":
    main()
