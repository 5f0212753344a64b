"""Coordinate descent in tensor operations, all strengths of a lasso's path at once: does it pay?

    python -m benchmarks.conditions.coordinates --out benchmarks/results/coordinates.json

Beside `ProximalGradient` on the same path to the same tolerance, in turns, in process time. The
descent has all that helps it: the Gram matrix beforehand, and updates in closed form. A sweep still
takes several calls for each feature, where a proximal step takes a few dozen whatever their number.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.provenance import SEED, provenance, write
from benchmarks.timing import interleaved, ratios
from hypergrad.conditions import L1, Composite
from hypergrad.solvers import ProximalGradient

STRENGTHS, EXAMPLES, RTOL = 30, 300, 1e-8
FEATURES = (10, 50, 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where the result file goes")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"provenance": provenance(), "rows": []}
    for features in FEATURES:
        row = compare(features, asked.rounds)
        found["rows"].append(row)
        print(row, flush=True)
    if asked.out is not None:
        write(asked.out, found)


def compare(features: int, rounds: int) -> dict[str, object]:
    """Time of coordinate descent over that of `ProximalGradient`, with the steps of both."""
    draw = torch.Generator().manual_seed(SEED)
    x = torch.randn(EXAMPLES, features, generator=draw, dtype=torch.float64)
    noise = torch.randn(EXAMPLES, generator=draw, dtype=torch.float64)
    y = x[:, :20].sum(dim=-1) + noise
    gram, slope = x.mT @ x / EXAMPLES, x.mT @ y / EXAMPLES
    strengths = slope.abs().max() * torch.logspace(0, -2, STRENGTHS + 1).double()[1:]

    def g(_: Tensor, phi: Tensor) -> Tensor:
        return (phi @ x.mT - y).square().sum(dim=-1) / (2 * EXAMPLES)

    lower: Any = Composite(g, L1(lambda theta: theta[:, None]))
    start, by = x.new_zeros(STRENGTHS, features), ProximalGradient(rtol=RTOL, max_steps=100_000)
    least, steps = by.minimise(lower, strengths, start), descend(gram, slope, strengths)
    assert float((least.phi - steps[0]).norm()) <= 1e-5 * float(least.phi.norm())
    runs = [
        lambda: by.minimise(lower, strengths, start),
        lambda: descend(gram, slope, strengths),
    ]
    ratio = ratios(interleaved(runs, rounds=rounds))[1]
    return {
        "features": features,
        "ratio": ratio.median,
        "ratio_quartiles": [ratio.low, ratio.high],
        "proximal_steps": least.steps,
        "sweeps": steps[1],
    }


def descend(gram: Tensor, slope: Tensor, strengths: Tensor) -> tuple[Tensor, int]:
    """Minimisers of ``phi' gram phi/2 - slope' phi + strength |phi|_1``, and sweeps taken."""
    phi = gram.new_zeros(len(strengths), len(slope))
    residual, diagonal, sweeps = slope.expand_as(phi).clone(), gram.diagonal().tolist(), 0
    goal, short = RTOL * slope.norm(), False
    while not short:
        sweeps += 1
        for index, bend in enumerate(diagonal):
            before = phi[:, index].clone()
            moved = before * bend + residual[:, index]
            after = moved.sign() * (moved.abs() - strengths).clamp_(min=0.0) / bend
            residual.addcmul_((before - after)[:, None], gram[index])
            phi[:, index] = after
        held = (residual.abs() - strengths[:, None]).clamp(min=0.0)
        least = torch.where(phi == 0, held, residual - strengths[:, None] * phi.sign())
        short = bool((least.norm(dim=-1) <= goal).all())
    return phi, sweeps


if __name__ == "__main__":
    main()
