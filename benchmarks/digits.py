"""A network as the lower level: digits with wrong labels, weighted by every adjoint.

Of 800 handwritten digits 30 % have a wrong label. A network is trained on them by AdamW on batches,
and after every two epochs a weight for each example moves along the hypergradient of the loss on
200 right ones: 25 upper steps. Reported are the accuracy on 797 others, and how well the weights
tell right labels from wrong (area under the ROC curve), as means of seeds.

    python -m benchmarks.digits
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Final

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.provenance import provenance, write
from hypergrad import (
    CG,
    MINRES,
    Certificate,
    GradientDescent,
    Neumann,
    Status,
    Unrolled,
    argmin,
    attach,
    curvature,
    warn,
)
from hypergrad.errors import AdjointWarning
from hypergrad.objectives import Composed
from hypergrad.stochastic import Minibatched, Subsampled

TRAIN, CLEAN = 800, 200
WRONG = 0.3
HIDDEN, PENALTY, SIZE = 32, 3e-3, 100
OUT: Final = Path(__file__).parent / "results" / "digits.json"
Phi = dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """Digits; the labels of some of the training examples are wrong."""

    x: Tensor
    y: Tensor
    wrong: Tensor
    clean: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def drawn(cls, seed: int) -> Data:
        """Another split, and other wrong labels, for each seed."""
        draw = torch.Generator().manual_seed(seed)
        digits = load_digits()
        x = torch.tensor(digits.data, dtype=torch.float32) / 16
        y = torch.tensor(digits.target)
        train, clean, test = torch.randperm(len(x), generator=draw).tensor_split(
            [TRAIN, TRAIN + CLEAN]
        )
        wrong = torch.rand(TRAIN, generator=draw) < WRONG
        other = (y[train] + torch.randint(1, 10, (TRAIN,), generator=draw)) % 10
        labels = torch.where(wrong, other, y[train])
        return cls(x[train], labels, wrong, (x[clean], y[clean]), (x[test], y[test]))


def network(phi: Phi, x: Tensor) -> Tensor:
    """The logits of a perceptron with one hidden layer."""
    return torch.tanh(x @ phi["w1"] + phi["b1"]) @ phi["w2"] + phi["b2"]


def initial(draw: torch.Generator) -> Phi:
    """Weights drawn at the usual size."""
    return {
        "w1": torch.randn(64, HIDDEN, generator=draw) / 8,
        "b1": torch.zeros(HIDDEN),
        "w2": torch.randn(HIDDEN, 10, generator=draw) / HIDDEN**0.5,
        "b2": torch.zeros(10),
    }


def penalty(theta: Tensor, phi: Phi) -> Tensor:
    """Half the squared length, times a constant."""
    total: Tensor = PENALTY / 2 * torch.stack([leaf.square().sum() for leaf in phi.values()]).sum()
    return total


def weighted(theta: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """The mean loss, each example with a weight between 0 and 2."""
    each = cross_entropy(logits, y, reduction="none")
    return (2 * theta.sigmoid() * each).mean()


def loss(theta: Tensor, phi: Phi, examples: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The lower objective on some examples; the third of the tensors is their places."""
    x, y, places = examples
    return weighted(theta[places], network(phi, x), y) + penalty(theta, phi)


@dataclass(frozen=True)
class Adjoint:
    """Way to make the minimiser differentiable."""

    solver: Any = None
    second: Any = None
    structured: bool = False  # whether the objective says that it is a loss of a model's outputs
    unrolled: int = 0  # gradient steps that are recorded, in place of a system

    def __call__(
        self, data: Data, lower: Minibatched[Tensor, Phi], theta: Tensor, phi: Phi, watch: Any
    ) -> Phi:
        """The trained network, differentiable in theta."""
        if self.unrolled:
            by = GradientDescent(max_steps=self.unrolled, step_size=0.1)
            return argmin(lower, theta, phi, by=by, adjoint=Unrolled(), watch=watch)
        given: Any = {} if self.second is None else {"curvature": self.second}
        objective: Any = lower
        if self.structured:
            objective = Composed(
                model=lambda theta, phi: network(phi, data.x),
                loss=lambda theta, logits: weighted(theta, logits, data.y),
                penalty=penalty,
            )
        return attach(objective, theta, phi, solver=self.solver, watch=watch, **given)


ADJOINTS: Final[dict[str, Adjoint | None]] = {
    "no weights": None,
    "CG()": Adjoint(CG()),
    "MINRES(max_steps=100)": Adjoint(MINRES(max_steps=100)),
    "Unrolled(), 10 gradient steps": Adjoint(unrolled=10),
    "Neumann(step_size=0.1, max_steps=1)": Adjoint(Neumann(step_size=0.1, max_steps=1)),
    "Neumann(step_size=0.1, max_steps=10)": Adjoint(Neumann(step_size=0.1, max_steps=10)),
    "CG(damping=0.01)": Adjoint(CG(damping=0.01)),
    "CG(damping=0.1)": Adjoint(CG(damping=0.1)),
    "CG(damping=1.0)": Adjoint(CG(damping=1.0)),
    "CG(rtol=1e-3), GaussNewton()": Adjoint(
        CG(rtol=1e-3), curvature.GaussNewton(), structured=True
    ),
    'CG(damping="auto")': Adjoint(CG(damping="auto")),
    'CG(damping="auto", rtol=1e-3, max_steps=100)': Adjoint(
        CG(damping="auto", rtol=1e-3, max_steps=100)
    ),
    'CG(damping="auto", rtol=1e-3, max_steps=100), Subsampled(blocks=2)': Adjoint(
        CG(damping="auto", rtol=1e-3, max_steps=100), Subsampled(blocks=2)
    ),
}


@dataclass
class Run:
    """Accuracy, certificates and warnings of one run of 25 upper steps."""

    accuracy: float = 0.0
    auc: float = 0.5
    warned: int = 0  # under Python's default filters
    statuses: Counter[str] = field(default_factory=Counter)
    products: list[int] = field(default_factory=list)
    dampings: list[float] = field(default_factory=list)

    def __call__(self, certificate: Certificate) -> None:
        """Count a certificate, and warn as the library does by default."""
        warn(certificate)
        solution = certificate.adjoint
        self.statuses[Status(int(solution.status)).name] += 1
        self.products.append(solution.matvecs)
        if solution.damping is not None:
            self.dampings.append(float(solution.damping))


def training(lower: Minibatched[Tensor, Phi], phi: Phi, epochs: int) -> Callable[[Tensor], None]:
    """A function that trains the network in place for some epochs, on from where it was."""
    for leaf in phi.values():
        leaf.requires_grad_()
    optimiser = torch.optim.AdamW(phi.values(), lr=1e-2)
    keys = itertools.count()

    def train(theta: Tensor) -> None:
        for key in itertools.islice(keys, epochs * lower.blocks):
            optimiser.zero_grad()
            lower.batch(key)(theta, phi).backward()
            optimiser.step()

    return train


def run(adjoint: Adjoint | None, seed: int, *, steps: int = 25, epochs: int = 2) -> Run:
    """Train, weight, and test."""
    globals().pop("__hypergrad_warnings__", None)  # each run warns as a process of its own
    data, found = Data.drawn(seed), Run()
    places = torch.arange(TRAIN)
    lower = Minibatched(loss=loss, data=(data.x, data.y, places), size=SIZE, seed=seed)
    theta = torch.zeros(TRAIN, requires_grad=True)
    phi = initial(torch.Generator().manual_seed(100 + seed))
    optimiser = torch.optim.Adam([theta], lr=0.5)
    train = training(lower, phi, epochs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(steps):
            train(theta.detach())
            if adjoint is None:
                continue
            optimiser.zero_grad()
            at = adjoint(data, lower, theta, {k: v.detach() for k, v in phi.items()}, found)
            cross_entropy(network(at, data.clean[0]), data.clean[1]).backward()
            optimiser.step()
        train(theta.detach())
    found.warned = sum(issubclass(each.category, AdjointWarning) for each in caught)
    with torch.no_grad():
        right = network(phi, data.test[0]).argmax(-1) == data.test[1]
    found.accuracy = float(right.float().mean())
    found.auc = float(roc_auc_score(~data.wrong.numpy(), theta.detach().numpy()))
    return found


def summary(runs: list[Run]) -> dict[str, object]:
    """The figures of one adjoint."""
    dampings = sorted(damping for run in runs for damping in run.dampings)
    products = [count for run in runs for count in run.products]
    return {
        "accuracy": mean(run.accuracy for run in runs),
        "accuracies": [run.accuracy for run in runs],
        "auc": mean(run.auc for run in runs),
        "aucs": [run.auc for run in runs],
        "warnings": max(run.warned for run in runs),
        "statuses": dict(sum((run.statuses for run in runs), Counter())),
        "products": mean(products) if products else 0.0,
        "damping": [dampings[0], dampings[len(dampings) // 2], dampings[-1]] if dampings else None,
    }


def rows(found: dict[str, Any]) -> Iterator[str]:
    """The rows of the table in the guide."""
    for name, one in found["adjoints"].items():
        damping = one["damping"]
        picked = "" if not damping or not damping[-1] else f"{damping[1]:.2g}"
        statuses = ", ".join(f"{k} {v}" for k, v in sorted(one["statuses"].items()))
        yield (
            f"| {f'`{name}`' if '(' in name else name} | {100 * one['accuracy']:.1f} | "
            f"{one['auc']:.3f} | {one['products']:.0f} | {picked} | {statuses} | "
            f"{one['warnings']} |"
        )


def main() -> None:
    """Run every adjoint from every seed and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    options = parser.parse_args()
    found: dict[str, Any] = {**provenance(), "seed": list(range(options.seeds)), "adjoints": {}}
    for name, adjoint in ADJOINTS.items():
        runs = [run(adjoint, seed) for seed in range(options.seeds)]
        found["adjoints"][name] = summary(runs)
        print(list(rows(found))[-1], flush=True)
    write(options.out, found)


if __name__ == "__main__":
    main()
