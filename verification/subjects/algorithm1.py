"""Implementations under test. A planted bug is a subject like any other."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from hypergrad import CG, Bilevel, GradientDescent, curvature, hypergradient


@runtime_checkable
class Subject(Protocol):
    """An implementation of the paper's Algorithm 1 for one upper step."""

    def __call__(
        self,
        problem: Bilevel[torch.Tensor, torch.Tensor],
        theta: Float[torch.Tensor, " p"],
        phi0: Float[torch.Tensor, "*batch q"],
        v0: Float[torch.Tensor, "*batch q"] | None,
        *,
        steps: int,
        max_steps: int,
        step_size: float,
    ) -> Float[torch.Tensor, " p"]:
        """The hypergradient of the mean over all tasks.

        Args:
            problem: f and g, one value for each task.
            theta: upper variable, shared by the tasks.
            phi0: start of gradient descent.
            v0: start of conjugate gradients; None means 0.
            steps: K.
            max_steps: N.
            step_size: alpha.
        """
        ...


def memory_reduced(
    problem: Bilevel[torch.Tensor, torch.Tensor],
    theta: Float[torch.Tensor, " p"],
    phi0: Float[torch.Tensor, "*batch q"],
    v0: Float[torch.Tensor, "*batch q"] | None,
    *,
    steps: int,
    max_steps: int,
    step_size: float,
) -> Float[torch.Tensor, " p"]:
    """The paper's Algorithm 1 (its Algorithm 2 is `CG`), from hypergrad's public names."""
    descent = GradientDescent(max_steps=steps, step_size=step_size)
    phi = descent.minimise(problem.lower, theta, phi0).phi
    solver = CG(max_steps=max_steps, rtol=0.0)
    plain = curvature.Hessian(probe="never")  # its calls are counted
    found = hypergradient(problem, theta, phi, solver=solver, curvature=plain, start=v0)
    return found.grad
