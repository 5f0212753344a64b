"""What compiled loops do, printed as JSON; in a process of its own, without the runtime checker.

    python -m tests.hypergrad.compiled_steps

The checker stands between the functions that it checks, where torch.compile can't follow.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from hypergrad import CG, Certificate, GradientDescent, Implicit, argmin
from hypergrad.errors import InputError
from hypergrad.implicit.curvature import Hessian
from hypergrad.objectives import SoftmaxRegression

TASKS, EXAMPLES, FEATURES, CLASSES, STEPS, L2 = 3, 6, 4, 3, 3, 0.1
Answer = tuple[Tensor, Tensor, Certificate]


def problem(features: int, seed: int) -> tuple[SoftmaxRegression, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (TASKS, EXAMPLES, features)
    labels = torch.arange(CLASSES).repeat(EXAMPLES // CLASSES).expand(TASKS, EXAMPLES)
    theta = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    start = torch.randn(TASKS, CLASSES, features, generator=generator, dtype=torch.float64)
    return SoftmaxRegression(labels, L2), theta, start


def solved(features: int, seed: int, *, compiled: bool) -> Answer:
    lower, theta, start = problem(features, seed)
    seen: list[Certificate] = []
    found = argmin(
        lower,
        theta,
        start,
        by=GradientDescent(max_steps=STEPS, step_size=0.1, compiled=compiled),
        adjoint=Implicit(CG(rtol=0, max_steps=STEPS, check_every=None, compiled=compiled)),
        watch=seen.append,
    )
    (gradient,) = torch.autograd.grad(found.square().sum(), theta)
    return found.detach(), gradient, seen[0]


def apart(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm())


def compare(features: int) -> dict[str, object]:
    """Two problems of one size: the second must not be compiled again."""
    plain, whole = (solved(features, 0, compiled=how) for how in (False, True))
    graphs = counters["stats"]["unique_graphs"]
    again = solved(features, 1, compiled=True)
    with torch.no_grad():  # as testing is, after training
        lower, theta, start = problem(features, 1)
        descent = GradientDescent(max_steps=STEPS, step_size=0.1, compiled=True)
        descent.minimise(lower, theta, start)
    adjoint, other = whole[2].adjoint, plain[2].adjoint
    curvature = float(plain[2].adjoint.curvature.min())
    return {
        "phi": apart(whole[0], plain[0]),
        "gradient": apart(whole[1], plain[1]),
        "second gradient": apart(again[1], solved(features, 1, compiled=False)[1]),
        "residual": apart(adjoint.residual, other.residual),
        "curvature": abs(float(adjoint.curvature.min()) - curvature) / curvature,
        "steps": [adjoint.steps.tolist(), other.steps.tolist()],
        "status": [adjoint.status.tolist(), other.status.tolist()],
        "matvecs": [adjoint.matvecs, other.matvecs],
        "compiled anew": counters["stats"]["unique_graphs"] - graphs,
    }


def refusals() -> dict[str, str]:
    """Autodiff within a loop; and more numbers of steps than torch compiles a loop for."""
    told = {}
    lower, theta, start = problem(FEATURES, 0)
    try:
        GradientDescent(max_steps=1, step_size=0.1, compiled=True).minimise(
            lambda x, w: lower(x, w), theta, start
        )
    except InputError as error:
        told["objective"] = str(error)
    point = Hessian().linearise(lambda x, w: lower(x, w), theta, start)
    try:
        CG(rtol=0, max_steps=1, check_every=None, compiled=True).solve(
            point.hessian, start.flatten(1)
        )
    except InputError as error:
        told["product"] = str(error)
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 1
    try:
        for steps in (1, 2):
            GradientDescent(max_steps=steps, step_size=0.1, compiled=True).minimise(
                lower, theta, start
            )
    except InputError as error:
        told["limit"] = str(error)
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"steps": compare(FEATURES), "refusals": refusals()}
    sys.stdout.write(json.dumps(found))
