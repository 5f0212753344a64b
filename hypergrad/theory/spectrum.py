"""The Hessian's extreme eigenvalues, estimated from products."""

from __future__ import annotations

import torch

from hypergrad.errors import InputError
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.lanczos import Spectrum, lanczos
from hypergrad.objective import Objective
from hypergrad.tree import Phi, Theta, detach, leaves


def extreme_eigenvalues(
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    steps: int = 30,
    seed: int = 0,
) -> Spectrum:
    """Estimate each task's least and largest eigenvalue of ``d2g/dphi2`` at phi.

    Lanczos's method with full reorthogonalisation from a random start (Parlett 1998, section
    13.8), all tasks together: ``steps + 2`` Hessian products, and memory for ``steps`` vectors.

    Args:
        lower: g, one value for each task.
        theta: upper variable.
        phi: where; leading dimensions = tasks.
        steps: the Krylov space's dimension; n gives all eigenvalues to round-off.
        seed: seed of the start.

    Raises:
        InputError: steps < 1, or the objective can't be used.
        NotFiniteError: g, its gradient or a product is NaN or infinite.
    """
    if steps < 1:
        raise InputError(f"extreme_eigenvalues got steps={steps}; it needs at least one.")
    constant = [False] * len(leaves(theta))
    point = Linearisation(lower, detach(theta), detach(phi), needed=constant)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    # The same start whatever the device: a seed names one experiment.
    random = torch.randn(
        point.gradient.shape, generator=generator, dtype=torch.float64, device="cpu"
    )
    return lanczos(point.product, random.to(point.gradient), steps=steps)
