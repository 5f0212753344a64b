"""jaxopt: ``custom_root`` with its default solver, and a projection's own derivative."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.behaviour.asked import report
from benchmarks.behaviour.jax_problems import answers, half_square, jax, jnp, numbers
from benchmarks.behaviour.problems import KINK

jaxopt: Any = importlib.import_module("jaxopt")


def attach(lower: Any, theta: Any, phi: Any) -> Any:
    """phi as the root of the lower objective's gradient."""
    root = jaxopt.implicit_diff.custom_root(
        lambda phi, theta: jax.grad(lower, argnums=1)(theta, phi)
    )
    return root(lambda start, theta: jax.lax.stop_gradient(phi))(None, theta)


def projected() -> list[float | None]:
    """Solution by jaxopt's projected gradient, differentiated implicitly."""
    solver = jaxopt.ProjectedGradient(
        fun=lambda phi, theta: half_square(phi - theta),
        projection=jaxopt.projection.projection_non_negative,
    )
    return numbers(
        jax.grad(lambda theta: solver.run(jnp.zeros(3), theta=theta).params.sum())(jnp.array(KINK))
    )


if __name__ == "__main__":
    report(
        "jaxopt",
        ["jaxopt", "jax", "jaxlib", "numpy"],
        {"custom_root": answers(attach, ended_early=attach) | {"active_set": projected}},
    )
