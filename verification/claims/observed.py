"""Iterates that an implementation of Algorithm 1 keeps to itself, read off its own derivatives.

A subject returns the hypergradient alone. Add y'phi to its lower and z'phi to its upper objective
(one y and one z for each task) and differentiate in them too: at y = z = 0 nothing else changes,
and its derivatives are, for each of T tasks, -v_N/T in y (J is the identity there) and phi_K/T in
z. So warm starts and certificates can be put to any subject, and to any bug.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float64

from hypergrad import Bilevel
from verification.subjects.algorithm1 import Subject


class Counts(TypedDict):
    """K, N and alpha, as a subject's keywords."""

    steps: int
    max_steps: int
    step_size: float


class DivergedError(ArithmeticError):
    """The subject returned something that is no number, or larger than any correct answer."""


@dataclass(frozen=True)
class Observed:
    """Everything one step of Algorithm 1 computed.

    Attributes:
        h: the hypergradient of the mean over the tasks.
        phi: phi_K of each task.
        v: v_N of each task.
    """

    h: Float64[np.ndarray, " p"]
    phi: Float64[np.ndarray, "*batch q"]
    v: Float64[np.ndarray, "*batch q"]


def observe(
    subject: Subject,
    problem: Bilevel[torch.Tensor, torch.Tensor],
    theta: Float64[np.ndarray, " p"],
    phi0: Float64[np.ndarray, "*batch q"],
    v0: Float64[np.ndarray, "*batch q"] | None,
    *,
    steps: int,
    max_steps: int,
    step_size: float,
) -> Observed:
    """Run the subject on the extended problem.

    Raises:
        DivergedError: the answer is not finite.
    """
    p, size, shape = theta.shape[-1], phi0.size, phi0.shape

    def lower(extended: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        y = extended[p : p + size].reshape(shape)
        return problem.lower(extended[:p], phi) + (y * phi).sum(-1)

    def upper(extended: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        z = extended[p + size :].reshape(shape)
        return problem.upper(extended[:p], phi) + (z * phi).sum(-1)

    answer = np.asarray(
        subject(
            Bilevel(upper=upper, lower=lower),
            torch.tensor(np.concatenate([theta, np.zeros(2 * size)])),
            torch.tensor(phi0),
            None if v0 is None else torch.tensor(v0),
            steps=steps,
            max_steps=max_steps,
            step_size=step_size,
        ).numpy()
    )
    tasks = phi0[..., 0].size
    return Observed(
        h=require_finite(answer[:p]),
        phi=require_finite(tasks * answer[p + size :].reshape(shape)),
        v=require_finite(-tasks * answer[p : p + size].reshape(shape)),
    )


LARGEST = 1e8  # beyond it no squares are summed: correct runs stay within a few units


def require_finite(values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """The values themselves.

    Raises:
        DivergedError: a value is not finite, or exceeds `LARGEST`.
    """
    if not (np.abs(values) < LARGEST).all():
        raise DivergedError(f"the subject returned {values}, which no correct one does here.")
    return values
