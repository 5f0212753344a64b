"""Errors of the probe of second derivatives: false alarms, and misses.

False alarms are objectives whose derivatives are torch's own and which are called wrong, at the
minimiser and at the start. Misses are objectives with an operation planted in them whose first
derivative is right and whose second is not, whose hypergradient is off by more than a tenth, and
which nothing in the certificate speaks against. The problems are those that the verification suite
draws.

    python -m benchmarks.second_derivatives --problems 10000
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.provenance import provenance, write
from benchmarks.stationarity import OFF, one
from hypergrad import Bilevel, Cholesky, curvature, hypergradient

KINDS = ("kept", "permuted", "cross")
PROBED = curvature.Hessian(probe="always")


class Planted(torch.autograd.Function):
    """``(t, u) -> t <u, A u> / 2`` for A = I; its backward is right, and differentiates wrongly.

    ``kept`` keeps u for its backward, as a constant; ``permuted`` lets each entry answer for its
    neighbour; ``cross`` keeps t.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, u: Tensor, kind: str) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(t, u)
        return t * (u @ u) / 2

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        t, u = ctx.saved_tensors
        in_t = u @ u / 2
        if ctx.kind == "kept":
            u = u.detach()
        elif ctx.kind == "permuted":
            u = u.detach() + u.roll(1) - u.roll(1).detach()
        else:
            t = t.detach()
        return cotangent * in_t, cotangent * t * u, None


def planted(
    problem: Bilevel[Tensor, Tensor], phi: Tensor, kind: str, seed: int
) -> tuple[Bilevel[Tensor, Tensor], Bilevel[Tensor, Tensor]]:
    """The problem with one more term, as it should be and with a wrong second derivative.

    The term has its minimum at phi where t does not depend on theta, and a slope there where it
    does; its size is that of the Hessian, within a factor of ten.
    """
    draw = torch.Generator().manual_seed(seed)
    size = 10 ** float(2 * torch.rand((), generator=draw, dtype=torch.float64) - 1)
    centre = phi + phi.norm() * torch.ones_like(phi) if kind == "cross" else phi

    apply: Callable[..., Tensor] = Planted.apply

    def lower(theta: Tensor, phi: Tensor, right: bool) -> Tensor:
        u = phi - centre
        t = 1 + theta.sum() / (1 + theta.detach().norm()) if kind == "cross" else phi.new_ones(())
        term = t * (u @ u) / 2 if right else apply(t, u, kind)
        return problem.lower(theta, phi) + size * term

    def whole(right: bool) -> Bilevel[Tensor, Tensor]:
        return Bilevel(upper=problem.upper, lower=lambda theta, phi: lower(theta, phi, right))

    return whole(True), whole(False)


def study(problems: int, dtype: torch.dtype) -> dict[str, object]:
    """Both counts over so many problems."""
    counts: Counter[str] = Counter()
    worst: dict[str, float] = {}
    for seed in range(problems):
        problem, theta, phi, start = one(seed, dtype)
        for place, point in (("minimiser", phi), ("start", start)):
            if not bool(point.any()):  # a relative error needs a nonzero point
                continue
            found = hypergradient(problem, theta, point, solver=Cholesky(), curvature=PROBED)
            share = found.certificate.second_derivative_error
            error = math.nan if share is None else float(share)
            counts[f"right, {place}"] += 1
            counts[f"right, {place}: called wrong"] += not bool(
                found.certificate.second_derivatives_right
            )
            worst[f"right, {place}"] = max(worst.get(f"right, {place}", 0.0), error)
        kind = KINDS[seed // 4 % len(KINDS)]
        right, wrong = planted(problem, phi, kind, seed)
        exact = hypergradient(right, theta, phi, solver=Cholesky()).grad
        found = hypergradient(wrong, theta, phi, solver=Cholesky(), curvature=PROBED)
        off = float((found.grad - exact).norm() / exact.norm())
        if off > OFF:
            counts[f"{kind}: off"] += 1
            solved = bool(found.certificate.adjoint.converged)
            counts[f"{kind}: adjoint system not solved"] += not solved
            counts[f"{kind}: missed"] += bool(found.certificate.solved)
    return {"counts": dict(sorted(counts.items())), "worst of right": worst}


def main() -> None:
    """Study both precisions and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--problems", type=int, default=2500, help="number of problems drawn")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results/second_derivatives.json"),
        help="result file",
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
