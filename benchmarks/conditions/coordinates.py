"""`CoordinateDescent` beside `ProximalGradient` on paths of lassos: where does it pay?

    python -m benchmarks.conditions.coordinates --out benchmarks/results/coordinates.json

All strengths of a path are tasks of one problem, solved by both to the same tolerance, in turns, in
process time. A sweep takes several calls for each entry that it visits, where a proximal step takes
a few dozen whatever their number.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from benchmarks.provenance import SEED, provenance, write
from benchmarks.timing import interleaved, ratios
from hypergrad.conditions import L1, Composite
from hypergrad.solvers import CoordinateDescent, ProximalGradient

EXAMPLES, RTOL = 300, 1e-8


@dataclass(frozen=True)
class Lassos:
    """A path of lassos.

    Attributes:
        loss: "squares" or "logistic".
        features: number of features.
        strengths: number of strengths, from the one that makes all entries zero down.
        least: the last over that one.
    """

    loss: str
    features: int
    strengths: int
    least: float


PATHS = (
    Lassos("squares", 10, 30, 0.01),
    Lassos("squares", 50, 30, 0.01),
    Lassos("squares", 500, 30, 0.01),
    Lassos("squares", 500, 30, 0.3),
    Lassos("logistic", 10, 30, 0.01),
    Lassos("logistic", 50, 30, 0.01),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where the result file goes")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"provenance": provenance(), "rows": []}
    for path in PATHS:
        row = compare(path, asked.rounds)
        found["rows"].append(row)
        print(row, flush=True)
    if asked.out is not None:
        write(asked.out, found)


def compare(path: Lassos, rounds: int) -> dict[str, object]:
    """Time of coordinate descent over that of `ProximalGradient`, with the steps of both."""
    draw = torch.Generator().manual_seed(SEED)
    x = torch.randn(EXAMPLES, path.features, generator=draw, dtype=torch.float64)
    noise = torch.randn(EXAMPLES, generator=draw, dtype=torch.float64)
    y = x[:, :20].sum(dim=-1) + noise
    if path.loss == "logistic":
        y = y.sign()

    def squares(_: Tensor, phi: Tensor) -> Tensor:
        return (phi @ x.mT - y).square().sum(dim=-1) / (2 * EXAMPLES)

    def logistic(_: Tensor, phi: Tensor) -> Tensor:
        return softplus(-y * (phi @ x.mT)).mean(dim=-1)

    # the gradient at zero, of which a logistic loss has half
    slope = x.mT @ y / EXAMPLES / (2 if path.loss == "logistic" else 1)
    shares = torch.linspace(0, 1, path.strengths + 1, dtype=torch.float64)[1:]
    strengths = slope.abs().max() * path.least**shares
    g = squares if path.loss == "squares" else logistic
    lower: Any = Composite(g, L1(lambda theta: theta[:, None]))
    start = x.new_zeros(path.strengths, path.features)
    by = ProximalGradient(rtol=RTOL, max_steps=100_000), CoordinateDescent(rtol=RTOL)
    ends = [solver.minimise(lower, strengths, start) for solver in by]
    assert all(end.converged is not None and bool(end.converged.all()) for end in ends)
    # subgradients of RTOL times the terms, over the least curvature of the path's supports
    assert float((ends[0].phi - ends[1].phi).norm()) <= 1e-5 * float(ends[0].phi.norm())
    runs = [lambda: by[0].minimise(lower, strengths, start)]
    runs.append(lambda: by[1].minimise(lower, strengths, start))
    ratio = ratios(interleaved(runs, rounds=rounds))[1]
    return {
        **asdict(path),
        "ratio": ratio.median,
        "ratio_quartiles": [ratio.low, ratio.high],
        "proximal_steps": ends[0].steps,
        "sweeps": ends[1].steps,
        "ever_nonzero": int((ends[1].phi != 0).any(dim=0).sum()),
    }


if __name__ == "__main__":
    main()
