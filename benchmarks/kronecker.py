"""Kronecker factors (K-FAC, EK-FAC of curvlinops) for the adjoint systems of the digits.

    python -m benchmarks.kronecker --out benchmarks/results/kronecker.json

At the networks that benchmarks/digits.py meets, after some of its upper steps: how many products
conjugate gradients take for the damped system with each preconditioner, and how far the factors'
own inverse is from solving it. The damping is the one that ``damping="auto"`` chose. The factors
are those of the unweighted loss, since curvlinops has no weights of examples, and are damped by
the penalty and the same damping. Then whole runs, with the factors' inverse in the system's place.

Needs curvlinops, which is no dependency: ``pip install --no-deps`` as benchmarks/behaviour does.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.digits import HIDDEN, PENALTY, Phi
from benchmarks.network_peers import score
from benchmarks.network_ways import UPPER_RATE, Task, looped, trained
from benchmarks.peer_entries import peer
from benchmarks.provenance import provenance, write
from hypergrad import (
    CG,
    Certificate,
    LinearMap,
    Solution,
    Status,
    attach,
    preconditioners,
    pullback,
)

OUT: Final = Path(__file__).parent / "results" / "kronecker.json"
AUTO: Final = CG(damping="auto", rtol=1e-3, max_steps=100)
Record = dict[str, Any]


def factors(task: Task, phi: Phi, damping: float, *, kind: str) -> LinearMap:
    """The inverse of the Kronecker factors at phi, damped by the penalty and ``damping``."""
    curvlinops: Any = peer("curvlinops")
    module = nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10))
    first, last = module[0], module[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        for layer, number in ((first, 1), (last, 2)):
            layer.weight.copy_(phi[f"w{number}"].T)
            layer.bias.copy_(phi[f"b{number}"])
    make = {"K-FAC": "KFACLinearOperator", "EK-FAC": "EKFACLinearOperator"}[kind]
    operator = getattr(curvlinops, make)(
        module,
        nn.CrossEntropyLoss(),
        list(module.parameters()),
        [(task.data.x, task.data.y)],
        fisher_type="type-2",
        check_deterministic=False,
    )
    inverse = curvlinops.KFACInverseLinearOperator(
        operator, damping=PENALTY + damping, use_exact_damping=True
    )

    weights = sum(leaf.numel() for leaf in phi.values())
    with torch.enable_grad():  # the first product computes the factors; solvers run without grad
        inverse @ torch.zeros(weights)

    def apply(vector: Tensor) -> Tensor:
        w1, b1, w2, b2 = vector.split([64 * HIDDEN, HIDDEN, HIDDEN * 10, 10])
        turned = [w1.view(64, HIDDEN).T, b1, w2.view(HIDDEN, 10).T, b2]
        found = inverse @ torch.cat([part.reshape(-1) for part in turned])
        w1, b1, w2, b2 = found.split([64 * HIDDEN, HIDDEN, HIDDEN * 10, 10])
        back = [w1.view(HIDDEN, 64).T, b1, w2.view(10, HIDDEN).T, b2]
        return torch.cat([part.reshape(-1) for part in back])

    return apply


@dataclass(frozen=True)
class Inverse:
    """The factors' inverse in the system's place; the residual is taken by a product."""

    task: Task
    phi: Phi
    damping: float
    kind: str

    def solve(self, apply: LinearMap, rhs: Tensor, start: Tensor | None = None) -> Solution:
        """Solve by the factors' inverse."""
        x = factors(self.task, self.phi, self.damping, kind=self.kind)(rhs)
        residual = (rhs - apply(x)).norm(dim=-1) / rhs.norm(dim=-1)
        status = torch.full_like(residual, Status.OUT_OF_STEPS, dtype=torch.int64)
        steps = torch.ones_like(status)
        unknown = torch.full_like(residual, torch.inf)
        return Solution(
            x=x, status=status, residual=residual, curvature=unknown, steps=steps, matvecs=1
        )


def systems(task: Task, at: tuple[int, ...]) -> Iterator[tuple[Tensor, Phi, Phi]]:
    """Theta, phi and the cotangent at some upper steps of a run with the automatic damping."""
    theta, phi = task.start()
    optimiser = torch.optim.Adam([theta], lr=UPPER_RATE)
    for pause in trained(task, theta, phi):
        copies = {name: leaf.detach().clone().requires_grad_() for name, leaf in phi.items()}
        if pause in at:
            slopes = torch.autograd.grad(task.upper(copies), list(copies.values()))
            cotangent = dict(zip(copies, slopes, strict=True))
            yield theta.detach().clone(), {k: v.detach() for k, v in copies.items()}, cotangent
        optimiser.zero_grad()
        plain = {name: leaf.detach() for name, leaf in copies.items()}
        task.upper(attach(task.lower, theta, plain, solver=AUTO)).backward()
        optimiser.step()


def compared(task: Task, theta: Tensor, phi: Phi, cotangent: Phi) -> Record:
    """Products of CG with each preconditioner, and the residual of each inverse."""

    def solved(solver: Any) -> Certificate:
        return pullback(task.lower, theta, phi, cotangent, solver=solver)[1]

    damping = solved(AUTO).adjoint.damping
    assert damping is not None
    size = float(damping)
    found: Record = {"damping": size, "products": {}, "residual": {}}
    by: dict[str, Any] = {
        "none": None,
        "Jacobi()": preconditioners.Jacobi(),
        "Nystrom(rank=20)": preconditioners.Nystrom(rank=20, shift=size),
    }
    for kind in ("K-FAC", "EK-FAC"):
        by[kind] = factors(task, phi, size, kind=kind)
        inverse = solved(Inverse(task, phi, size, kind)).adjoint.x
        found["residual"][kind] = damped_residual(task, theta, phi, cotangent, inverse, size)
    for name, inverse in by.items():
        solver = CG(damping=size, rtol=1e-3, max_steps=300, preconditioner=inverse)
        found["products"][name] = solved(solver).adjoint.matvecs
    return found


def damped_residual(
    task: Task, theta: Tensor, phi: Phi, cotangent: Phi, x: Tensor, damping: float
) -> float:
    """``|b - (H + damping I) x| / |b|`` by autograd."""
    leaves = [leaf.clone().requires_grad_() for leaf in phi.values()]
    value = task.lower(theta, dict(zip(phi, leaves, strict=True)))
    gradient = torch.autograd.grad(value, leaves, create_graph=True)
    parts = [
        part.view_as(leaf)
        for part, leaf in zip(x.split([leaf.numel() for leaf in leaves]), leaves, strict=True)
    ]
    image = torch.autograd.grad(gradient, leaves, parts)
    b = torch.cat([part.reshape(-1) for part in cotangent.values()])
    product = torch.cat([part.reshape(-1) for part in image]) + damping * x
    return float((b - product).norm() / b.norm())


def runs(seeds: int, steps: int) -> Record:
    """Accuracy and AUC of whole runs with each inverse, damped by the median of the rule."""

    def inverted(kind: str) -> Callable[[Task, Tensor, Phi], Phi]:
        return lambda task, theta, phi: attach(
            task.lower, theta, phi, solver=Inverse(task, phi, 0.06, kind)
        )

    found: Record = {}
    ways: dict[str, Any] = {kind: inverted(kind) for kind in ("K-FAC", "EK-FAC")}
    ways["CG"] = lambda task, theta, phi: attach(task.lower, theta, phi, solver=AUTO)
    for name, derivative in ways.items():
        scores = []
        for seed in range(seeds):
            task = Task.drawn(seed, steps)
            scores.append(score(task, *looped(derivative)(task)))
        found[name] = {"accuracies": [a for a, _ in scores], "aucs": [b for _, b in scores]}
    return found


def rows(found: Record) -> list[str]:
    """The rows of the table in docs/solvers.md."""
    names = found["systems"][0]["products"]
    lines = []
    for name in names:
        counts = [one["products"][name] for one in found["systems"]]
        residuals = [one["residual"].get(name) for one in found["systems"]]
        own = f"{median(residuals):.1f}" if None not in residuals else ""
        run = found["runs"].get("CG" if name == "none" else name)
        accuracy = f"{100 * mean(run['accuracies']):.1f}" if run else ""
        auc = f"{mean(run['aucs']):.3f}" if run else ""
        shown = f"`{name}`" if "(" in name else name
        lines.append(
            f"| {shown} | {median(counts):.0f} ({min(counts)} to {max(counts)}) | {own} | "
            f"{accuracy} | {auc} |"
        )
    return lines


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    origin = provenance()
    systems_compared = []
    for seed in range(asked.seeds):
        task = Task.drawn(seed, 25)
        systems_compared += [compared(task, *system) for system in systems(task, (1, 5, 15, 25))]
    found: Record = {
        "provenance": origin,
        "systems": systems_compared,
        "runs": runs(asked.seeds, 25),
    }
    write(asked.out, found)
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
