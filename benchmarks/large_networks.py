"""Hypergradients through 10 and 100 million weights: memory and time over a training step.

    python -m benchmarks.large_networks --out benchmarks/results/large_networks.json

A residual network on pictures and a transformer on tokens, both of noise, are the lower level; the
upper variable is a weight for each example. The batch is small on purpose, so that what is measured
is what grows with the weights: vectors of their size, and products with the Hessian. Bytes are the
most that tensors occupy at a time beyond the weights, over the weights' bytes; time is process time
over that of a training step (gradient and AdamW), of the one run that counts the bytes: good for
its size, not for its digits. The last figure is the hypergradient's error if the adjoint vector v
were kept in bfloat16, which would save half a vector.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from benchmarks.provenance import SEED, provenance, write
from benchmarks.timing import seconds
from hypergrad import CG, Certificate, LinearSolver, Neumann, pullback
from hypergrad.objectives import call
from metalearn.memory import LiveBytes

OUT: Final = Path(__file__).parent / "results" / "large_networks.json"
CLASSES: Final = 10
EXAMPLES: Final = 2
Record = dict[str, Any]
Phi = dict[str, Tensor]


class Residual(nn.Module):
    """Two convolutions with group norms, and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.GroupNorm(8, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.GroupNorm(8, after),
        )
        self.around = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = relu(self.inner(x) + self.around(x))
        return out


class Attention(nn.Module):
    """A block of a transformer; written out, since the fused attention has no second derivative."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        heads = max(1, x.shape[-1] // 64)
        parts = self.into(self.first(x)).unflatten(-1, (3, heads, -1)).unbind(-3)
        query, key, value = (part.transpose(-3, -2) for part in parts)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = (scores.softmax(-1) @ value).transpose(-3, -2).flatten(-2)
        x = x + self.out(mixed)
        found: Tensor = x + self.wide(self.second(x))
        return found


def residual_network(width: int) -> tuple[nn.Module, Tensor]:
    """Four stages of two blocks, as ResNet-18 has them, on pictures of 8 pixels."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False)]
    before = width
    for stage in range(4):
        after = width * 2**stage
        layers += [Residual(before, after, 1 if stage == 0 else 2), Residual(after, after, 1)]
        before = after
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES)]
    return nn.Sequential(*layers), torch.randn(EXAMPLES, 3, 8, 8)


def transformer(
    width: int, depth: int, words: int = 1000, tokens: int = 4
) -> tuple[nn.Module, Tensor]:
    """Blocks over embedded tokens; the class is read off their mean."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(-2)

    blocks = [Attention(width) for _ in range(depth)]
    ends = [Mean(), nn.LayerNorm(width), nn.Linear(width, CLASSES)]
    model = nn.Sequential(nn.Embedding(words, width), *blocks, *ends)
    return model, torch.randint(words, (EXAMPLES, tokens))


NETWORKS: Final[dict[str, Callable[[], tuple[nn.Module, Tensor]]]] = {
    "ResNet, 10M": partial(residual_network, 64),
    "transformer, 10M": partial(transformer, 384, 5),
    "transformer, 100M": partial(transformer, 768, 14),
    "ResNet, 100M": partial(residual_network, 192),
}
SOLVERS: Final[dict[str, LinearSolver]] = {
    "Neumann(step_size=0.1, max_steps=1)": Neumann(step_size=0.1, max_steps=1),
    "Neumann(step_size=0.1, max_steps=5)": Neumann(step_size=0.1, max_steps=5),
    "CG(damping=1.0, max_steps=5)": CG(damping=1.0, max_steps=5),
    'CG(damping="auto", max_steps=5)': CG(damping="auto", max_steps=5),
}


@dataclass(frozen=True)
class Setting:
    """A network, its batch, and the derivative of an upper loss in its weights."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    phi: Phi
    cotangent: Phi

    @classmethod
    def made(cls, make: Callable[[], tuple[nn.Module, Tensor]]) -> Setting:
        """The cotangent is the gradient of the loss with other labels."""
        torch.manual_seed(SEED)
        model, inputs = make()
        labels, other = torch.randint(CLASSES, (2, EXAMPLES))
        cross_entropy(model(inputs), other).backward()
        cotangent = {name: leaf.grad for name, leaf in model.named_parameters()}
        assert all(leaf is not None for leaf in cotangent.values())
        found: Any = cotangent
        for leaf in model.parameters():
            leaf.grad = None
        phi = {name: leaf.detach() for name, leaf in model.named_parameters()}
        return cls(model, inputs, labels, phi, found)

    @property
    def weights(self) -> int:
        """The number of weights."""
        return sum(leaf.numel() for leaf in self.phi.values())

    def lower(self, theta: Tensor, phi: Phi) -> Tensor:
        """The weighted loss."""
        each = cross_entropy(call(self.model, phi, self.inputs), self.labels, reduction="none")
        return (2 * theta.sigmoid() * each).mean()

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """A training step."""
        optimiser.zero_grad()
        cross_entropy(self.model(self.inputs), self.labels).backward()
        optimiser.step()

    def hypergradient(self, solver: LinearSolver, kept: list[Certificate]) -> Tensor:
        """The derivative in theta."""
        theta = torch.zeros(EXAMPLES)
        found, certificate = pullback(self.lower, theta, self.phi, self.cotangent, solver=solver)
        kept.append(certificate)
        return found


def beyond(run: Callable[[], object]) -> tuple[int, float]:
    """Most bytes alive at a time of what is made in a run, and its seconds."""
    with LiveBytes() as live:
        spent = seconds(run)
    return live.peak, spent


def measured(make: Callable[[], tuple[nn.Module, Tensor]]) -> Record:
    """Bytes, products and times of all solvers on one network."""
    setting = Setting.made(make)
    size = 4 * setting.weights
    optimiser = torch.optim.AdamW(setting.model.parameters(), lr=0.0)  # phi stays where it is

    plain = partial(setting.step, optimiser)
    trained, _ = beyond(plain)  # AdamW makes its means at the first step
    _, alone = beyond(plain)
    optimiser.zero_grad()
    # the first hypergradient of a kind of objective compares second derivatives with differences
    setting.hypergradient(Neumann(step_size=0.1, max_steps=1), [])
    certificates = list[Certificate]()
    runs: list[Callable[[], object]] = [
        partial(setting.hypergradient, solver, certificates) for solver in SOLVERS.values()
    ]
    counted = [beyond(run) for run in runs]
    return {
        "weights": setting.weights,
        "training": {"bytes": trained, "over_weights": trained / size},
        "solvers": {
            name: {
                "bytes": peak,
                "over_weights": peak / size,
                "products": certificate.adjoint.matvecs,
                "time": time / alone,
            }
            for name, certificate, (peak, time) in zip(SOLVERS, certificates, counted, strict=True)
        },
        "bfloat16": halved(setting),
    }


def halved(setting: Setting) -> float:
    """Relative error of the hypergradient if v is rounded to bfloat16: that of one term's v."""
    one = Neumann(step_size=1.0, max_steps=1)  # whose v is the cotangent itself
    exact = setting.hypergradient(one, [])
    short = {name: leaf.bfloat16().float() for name, leaf in setting.cotangent.items()}
    rounded = Setting(setting.model, setting.inputs, setting.labels, setting.phi, short)
    return float((rounded.hypergradient(one, []) - exact).norm() / exact.norm())


def rows(found: Record) -> list[str]:
    """The rows of the table in the guide."""
    lines = []
    for name, one in found["networks"].items():
        lines.append(f"| {name} | a training step | {one['training']['over_weights']:.1f} |  | 1 |")
        for solver, each in one["solvers"].items():
            cells = f"{each['over_weights']:.1f} | {each['products']} | {each['time']:.0f}"
            lines.append(f"|  | `{solver}` | {cells} |")
    return lines


def main() -> None:
    """Measure every network and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where the result file goes")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: Record = {"provenance": provenance(), "examples": EXAMPLES, "networks": {}}
    for name in asked.networks:
        found["networks"][name] = measured(NETWORKS[name])
        print("\n".join(rows({"networks": {name: found["networks"][name]}})), flush=True)
        print(f"bfloat16: {found['networks'][name]['bfloat16']:.1e}", flush=True)
        write(asked.out, found)


if __name__ == "__main__":
    main()
