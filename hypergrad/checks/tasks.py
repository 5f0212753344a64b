"""Independence of tasks: nothing of task i may depend on task j's phi."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypergrad.checks.findings import Finding, compare, skip
from hypergrad.checks.problem import Problem
from hypergrad.linear.vectors import norm
from hypergrad.tree import flatten, leaves

TASKS = "independent tasks"


def examine_tasks(problem: Problem) -> list[Finding]:
    """Change the phi of some tasks, and look at the values, gradients and products of the others.

    Sets of tasks by the binary digits of their index, and the complements: any two tasks differ in
    a digit, so every ordered pair is seen with one changed and the other not, in 2 log2 T goes.
    """
    tasks = problem.batch.numel()
    if tasks < 2:
        return [skip(TASKS, "there is one task")]
    vector, length = problem.vector, problem.length()
    point = problem.linearise()
    probe = problem.draw(vector)
    image = point.product(probe)
    bigger = (vector.abs() + length[..., None] / math.sqrt(vector.shape[-1])) / 10
    moved = vector + bigger * problem.draw(vector)
    values, gradient = _derivatives(problem, vector)
    # all tasks in units of values; a change is judged by the scale of the largest task
    sizes = values.abs() + length * norm(gradient) + length * norm(image)
    scale = float(sizes.max()) or 1.0
    worst, culprit = 0.0, ""
    index = torch.arange(tasks, device=vector.device).reshape(problem.batch)
    for digit in range((tasks - 1).bit_length()):
        for changed in ((index >> digit) % 2 == 1, (index >> digit) % 2 == 0):
            there = _derivatives(problem, torch.where(changed[..., None], moved, vector))
            spilled = point.product(torch.where(changed[..., None], probe, 0.0))
            for what, difference in (
                ("value", (there[0] - values).abs()),
                ("gradient", norm(there[1] - gradient) * length),
                ("Hessian product", norm(spilled) * length),
            ):
                outside = torch.where(changed, 0.0, difference).nan_to_num(nan=torch.inf)
                if float(outside.max()) > worst:
                    worst = float(outside.max())
                    culprit = f"the {what} of task {int(outside.argmax())} moves"
    # Independent tasks agree to the last bit, unless they share a harmless scale (the largest
    # logit of all, say), which costs a few eps.
    return [
        compare(
            TASKS,
            worst / scale,
            100 * problem.eps,
            (culprit or "what a task notices") + " when others change",
            "keep the tasks apart: sum or average over everything but phi's leading dimensions "
            "(batch statistics over all tasks couple them, too)",
        )
    ]


def _derivatives(problem: Problem, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradients; not refused if those of a changed task are not finite."""
    phi = problem.tree(vector.detach().clone().requires_grad_())
    with torch.enable_grad():
        values = problem.plain.lower(problem.theta, phi)
        gradients = torch.autograd.grad(
            values.sum(), leaves(phi), allow_unused=True, materialize_grads=True
        )
    return values.detach(), flatten(gradients, problem.batch)
