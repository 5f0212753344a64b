"""Gradient descent on the lower objective: K steps, nothing kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hypergrad.errors import InputError
from hypergrad.linear.solution import norm
from hypergrad.lower.minimum import Minimum
from hypergrad.objective import Objective, evaluate, fresh_leaf, refuse_not_finite
from hypergrad.tree import Phi, Theta, detach, flatten, leaves, like


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientDescent:
    """``phi <- phi - step_size d g/d phi``, K times; the lower loop of the paper's Algorithm 1.

    With ``step_size <= 2/(mu + L)`` the distance to the minimiser shrinks by
    ``1 - step_size mu`` a step (theory.md, Theorem A).

    Attributes:
        steps: K.
        step_size: alpha, below 2/L.
    """

    steps: int
    step_size: float

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.step_size > 0:
            raise InputError(
                f"GradientDescent got steps={self.steps}, step_size={self.step_size}; it needs "
                "steps >= 0 and step_size > 0 (below 2/L, L the largest curvature)."
            )

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Take the steps, storing one iterate; then one gradient more, for the evidence.

        Raises:
            NotFiniteError: the steps diverged.
        """
        theta, phi = detach(theta), detach(phi)
        for _ in range(self.steps):
            phi = detach(self.step(lower, theta, phi))
        probes = [fresh_leaf(leaf) for leaf in leaves(phi)]
        values = evaluate(lower, theta, like(phi, probes))
        gradients = torch.autograd.grad(values.sum(), probes)
        stationarity = norm(flatten(gradients, values.shape))
        refuse_not_finite(stationarity, "the gradient where gradient descent ended", per_task=True)
        return Minimum(
            phi=phi,
            stationarity=stationarity,
            converged=torch.zeros_like(stationarity, dtype=torch.bool),
            steps=self.steps,
        )

    def step(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Phi:
        """One step; recorded for differentiation if theta or phi requires grad."""
        record = any(leaf.requires_grad for leaf in (*leaves(theta), *leaves(phi)))
        points = [leaf if leaf.requires_grad else fresh_leaf(leaf) for leaf in leaves(phi)]
        with torch.enable_grad():
            values = lower(theta, like(phi, points))
            gradients = torch.autograd.grad(values.sum(), points, create_graph=record)
            moved = [
                point - self.step_size * gradient
                for point, gradient in zip(points, gradients, strict=True)
            ]
        return like(phi, moved)
