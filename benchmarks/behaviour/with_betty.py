"""betty-ml: an Engine of two problems, its conjugate gradients and its Neumann series.

What is asked of it is what ``one_step_descent`` does up to the optimiser's step.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.behaviour.asked import Answer, report
from benchmarks.behaviour.problems import INDEFINITE, SLOW, SMALL, TWO_TASKS
from benchmarks.behaviour.torch_problems import (
    Held,
    Lower,
    descended,
    half_square,
    leaf,
    numbers,
    quadratic,
    small_second,
    vector,
)

problems: Any = importlib.import_module("betty.problems")
engines: Any = importlib.import_module("betty.engine")
configs: Any = importlib.import_module("betty.configs")


def gradient(
    lower: Lower,
    theta: Tensor,
    phi: Tensor,
    upper: Callable[[Tensor], Tensor],
    config: dict[str, Any],
) -> Tensor | None:
    """The gradient that it leaves in theta's module."""
    theta_module, phi_module = Held(lower, theta), Held(lower, phi)

    class Lower_(problems.ImplicitProblem):  # type: ignore[misc]
        def training_step(self, batch: None) -> Tensor:
            return lower(theta_module.value, phi_module.value)

        def get_batch(self) -> None:
            return None

    class Upper_(Lower_):
        def training_step(self, batch: None) -> Tensor:
            return upper(phi_module.value)

    def problem(kind: Any, name: str, module: Held, **options: Any) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
        return kind(name=name, module=module, optimizer=optimiser, config=configs.Config(**options))

    above = problem(Upper_, "upper", theta_module, retain_graph=True)
    below = problem(Lower_, "lower", phi_module, **config)
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        engines.Engine(
            problems=[above, below],
            config=configs.EngineConfig(strategy="cpu"),
            dependencies={"u2l": {above: [below]}, "l2u": {below: [above]}},
        )
    loss, _ = above.get_loss(None)
    above.backward(
        loss=loss,
        params=above.trainable_parameters(),
        paths=above.paths,
        create_graph=False,
        retain_graph=True,
        allow_unused=True,
    )
    return theta_module.value.grad


def answers(**config: Any) -> dict[str, Answer | str]:
    """All cases with one configuration of the lower problem."""

    def ask(
        lower: Lower, theta: Tensor, phi: Tensor, upper: Callable[[Tensor], Tensor]
    ) -> list[float | None]:
        return numbers(gradient(lower, theta, phi, upper, config))

    def captured() -> list[float | None]:
        c = leaf([0.0, 0.0])
        ask(lambda theta, phi: half_square(phi - theta - c), ones, ones, torch.sum)
        return numbers(c.grad)

    def batches() -> list[float | None]:
        h = vector(TWO_TASKS)
        found = gradient(quadratic(h), torch.ones_like(h), 1 / h, small_second, config)
        return numbers(None if found is None else found[1] / SMALL)

    ones, slow, saddle = vector([1.0, 1.0]), quadratic(vector(SLOW)), vector(INDEFINITE)
    two = vector([2.0])[0]
    return {
        "indefinite": lambda: ask(quadratic(saddle), ones, 1 / saddle, torch.sum),
        "unconverged": lambda: ask(slow, ones, descended(), half_square),
        "no_minimiser": lambda: ask(slow, ones, vector([0.0, 0.0]), half_square),
        "zero_dim": lambda: ask(quadratic(two), ones[0], 1 / two, lambda phi: phi),
        "second": "gradients only: they are left in .grad, without a graph",
        "active_set": "no constraints",
        "captured": captured,
        "batches": batches,
    }


if __name__ == "__main__":
    report(
        "betty",
        ["betty-ml", "torch", "numpy"],
        {
            'type="cg"': answers(type="cg", cg_iterations=10),
            'type="neumann"': answers(type="neumann", neumann_iterations=100, neumann_alpha=0.25),
        },
    )
