"""optimistix: ``minimise`` by BFGS with rtol = atol = 1e-8 and its implicit adjoint.

It attaches nothing that others found: it is started at phi, and where the case asks for a point
that is no minimiser it may take one step, with ``throw=False``.
"""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.behaviour.asked import report
from benchmarks.behaviour.jax_problems import answers

optimistix: Any = importlib.import_module("optimistix")


def solve(lower: Any, theta: Any, start: Any, **options: Any) -> Any:
    """Minimiser by optimistix."""
    solver = optimistix.BFGS(rtol=1e-8, atol=1e-8)
    return optimistix.minimise(
        lambda phi, theta: lower(theta, phi), solver, start, args=theta, **options
    ).value


def one_step(lower: Any, theta: Any, start: Any) -> Any:
    """Point after one step, taken as the minimiser."""
    return solve(lower, theta, start, max_steps=1, throw=False)


if __name__ == "__main__":
    report(
        "optimistix",
        ["optimistix", "jax", "jaxlib", "equinox", "lineax", "numpy"],
        {"minimise, BFGS": answers(solve, ended_early=one_step) | {"active_set": "no constraints"}},
    )
