"""Errors of certificates on minimisers and other points: false alarms, and misses.

False alarms are minimisers, exact to the precision, that are called none. Misses are other points,
of several kinds, whose hypergradient is off by more than a tenth and which are called minimisers.
The problems are those that the verification suite draws.

    python -m benchmarks.stationarity --problems 2500
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.provenance import provenance, write
from hypergrad import Bilevel, Cholesky, GradientDescent, hypergradient
from verification.problems import drawn

OFF = 0.1  # relative error of a hypergradient that must not pass unsaid
KINDS = ("scaled", "noise", "flattest direction", "descent", "start", "zeros", "unseen by f")


def one(seed: int, dtype: torch.dtype) -> tuple[Bilevel[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """A single problem: objectives, theta, its minimiser, and a start."""
    family = drawn.FAMILIES[seed % len(drawn.FAMILIES)]
    condition = 1e6 if dtype == torch.float64 else 1e4
    instance = drawn.of_family(family, seed=seed, condition=condition)
    if instance.family.batch:
        instance = drawn.pick(instance, (0,) * len(instance.family.batch))
    theta, start, _ = instance.tensors(dtype)
    phi = torch.tensor(instance.family.minimiser(instance.theta), dtype=dtype)
    return instance.family.bilevel(dtype), theta, phi, start


def elsewhere(
    kind: str,
    problem: Bilevel[Tensor, Tensor],
    theta: Tensor,
    phi: Tensor,
    start: Tensor,
    seed: int,
) -> Tensor:
    """A point of this kind."""
    draw = torch.Generator().manual_seed(seed)
    size = 10 ** float(-2.5 + 2.5 * torch.rand((), generator=draw, dtype=torch.float64))
    hessian: Tensor = torch.autograd.functional.hessian(lambda p: problem.lower(theta, p), phi)
    if kind == "scaled":
        return phi * (1 + size)
    if kind in ("noise", "flattest direction", "unseen by f"):
        way = torch.randn(phi.shape, generator=draw, dtype=phi.dtype)
        if kind == "flattest direction":
            way = torch.linalg.eigh(hessian)[1][:, 0]
        if kind == "unseen by f":  # at right angles to d f/d phi, where <v, r> sees nothing
            (c,) = torch.autograd.grad(
                problem.upper(theta, at := phi.clone().requires_grad_()).sum(), at
            )
            way = way - (way @ c) / (c @ c) * c
        moved: Tensor = phi + size * phi.norm() * way / way.norm()
        return moved
    if kind == "descent":
        largest = float(torch.linalg.eigvalsh(hessian)[-1])
        steps = int(10 ** (3 * float(torch.rand((), generator=draw))))
        by = GradientDescent(max_steps=steps, step_size=1 / largest)
        return by.minimise(problem.lower, theta, start).phi
    return start if kind == "start" else torch.zeros_like(phi)


def study(problems: int, dtype: torch.dtype) -> dict[str, object]:
    """Both counts over so many problems."""
    counts: Counter[str] = Counter()
    missed: list[dict[str, object]] = []
    for seed in range(problems):
        problem, theta, phi, start = one(seed, dtype)
        exact = hypergradient(problem, theta, phi, solver=Cholesky())
        counts["minimisers"] += 1
        counts["false alarms"] += int(not bool(exact.certificate.at_minimiser))
        kind = KINDS[seed // len(drawn.FAMILIES) % len(KINDS)]
        other = elsewhere(kind, problem, theta, phi, start, seed)
        for solver in (Cholesky(), None):
            found = hypergradient(problem, theta, other, solver=solver)
            error = float((found.grad - exact.grad).norm() / exact.grad.norm())
            counts["other points"] += 1
            if error > OFF:
                counts[f"{kind}: off"] += 1
                if bool(found.certificate.at_minimiser):
                    counts[f"{kind}: missed"] += 1
                    step = float(found.certificate.newton_step)
                    missed.append({"seed": seed, "kind": kind, "error": error, "step": step})
    return {"counts": dict(sorted(counts.items())), "missed": missed[:50]}


def main() -> None:
    """Study both precisions and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--problems", type=int, default=2500, help="number of problems drawn")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/stationarity.json"), help="result file"
    )
    options = parser.parse_args()
    found: dict[str, object] = {**provenance(), "problems": options.problems, "off": OFF}
    np.seterr(all="raise", under="ignore")
    for dtype in (torch.float64, torch.float32):
        found[str(dtype)] = study(options.problems, dtype)
        print(dtype, found[str(dtype)])
    write(options.out, found)


if __name__ == "__main__":
    main()
